//go:build race

package forsetihttp_test

const raceEnabled = true
