package forecast

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// The models that R fitted, with the states it started them from, forecast the same and make the same errors.
func TestFittedModelsOfR(t *testing.T) {
	air := []float64{17.5534, 21.8601, 23.8866, 26.9293, 26.8885, 28.8314, 30.0751, 30.9535, 30.1857, 31.5797, 32.577569, 33.477398, 39.021581, 41.386432, 41.596552}
	for _, c := range []struct {
		alpha, beta, phi, level, trend, sse float64
		ahead                               []float64
	}{
		{
			1.00004390321e-04, 1.00002249682e-04, 1, 19.1014873182, 1.43069654143, 43.748010196,
			[]float64{41.9904377410, 43.4209952678, 44.8515527947, 46.2821103215, 47.7126678483},
		},
		{
			.995912483594, 1.00000177749e-04, .975837884842, 16.6430315595, 2.29728622391, 38.6535913444,
			[]float64{43.1552159304, 44.6707210002, 46.1496082619, 47.5927624793, 49.0010470383},
		},
	} {
		s := newSmoother(settings{alpha: c.alpha, beta: c.beta / c.alpha, phi: c.phi, warm: 1})
		s.level, s.trend, s.started = c.level, c.trend, true
		sse := 0.0
		for _, y := range air {
			d := y - s.ahead(1)
			sse += d * d
			s.step(y)
		}
		require.InDelta(t, c.sse, sse, 1e-6)
		for i, want := range c.ahead {
			require.InDelta(t, want, s.ahead(i+1), 1e-6)
		}
		// Ours does not do worse on the history than what R found.
		nan := math.NaN()
		phi := c.phi
		if phi < 1 {
			phi = 0.9
		}
		own := fitted(air, settings{alpha: 0.3, beta: 0.1, phi: phi}, settings{alpha: nan, beta: nan, gamma: nan, phi: nan}, false)
		require.Less(t, own.errs.square*float64(own.errs.judged), 1.05*c.sse)
	}
}

func TestSimplexFindsTheBottomOfABananaShapedValley(t *testing.T) {
	x, c := simplex(func(x []float64) float64 {
		return 100*math.Pow(x[1]-x[0]*x[0], 2) + math.Pow(1-x[0], 2)
	}, []float64{-1.2, 1}, 0.5, 1000)
	require.Less(t, c, 1e-6)
	require.InDelta(t, 1, x[0], 1e-2)
}

func TestSolve(t *testing.T) {
	x := solve([][]float64{{4, 2}, {2, 3}}, []float64{10, 8})
	require.InDeltaSlice(t, []float64{1.75, 1.5}, x, 1e-12)
	require.Nil(t, solve([][]float64{{0, 0}, {0, 0}}, []float64{1, 1}))
}
