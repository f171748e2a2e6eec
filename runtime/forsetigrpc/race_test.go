//go:build race

package forsetigrpc_test

const raceEnabled = true
