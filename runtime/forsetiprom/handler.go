package forsetiprom

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/forseti-go/forseti/runtime"
)

// Handler answers scrapes with the runtime's metrics, as text or, where that is asked for, as OpenMetrics. It has a registry
// of its own, in which nothing else is. Four scrapes at once are answered, further ones refused by 503. It may go on after
// Shutdown.
func Handler(rt *runtime.Runtime) http.Handler {
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(
		otelprom.WithRegisterer(registry), otelprom.WithProducer(rt.Metrics()), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo(),
	)
	if err != nil { // the exporter's metrics about itself, which an environment variable asks for, could not be made
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "metrics: "+err.Error(), http.StatusInternalServerError)
		})
	}
	// A reader answers nothing until a provider has it. This one has no instruments.
	sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(resource.Empty()))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4})
}
