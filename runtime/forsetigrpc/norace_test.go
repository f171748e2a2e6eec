//go:build !race

package forsetigrpc_test

const raceEnabled = false
