module github.com/forseti-go/forseti/cmd/forseti-bench

go 1.26.0

require (
	github.com/forseti-go/forseti v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect

replace github.com/forseti-go/forseti => ../..
