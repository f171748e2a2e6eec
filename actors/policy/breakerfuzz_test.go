package policy

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Six bytes are a fact: any kind, of this epoch or another, at a time that may go back, with a reading that may too.
func factOf(b []byte, c *BreakerCore, cfgs []Breaker) BreakerFact {
	s := c.Snapshot()
	f := BreakerFact{Kind: BreakerFactKind(b[0] % 7), Slow: b[0]&0x80 != 0, Epoch: s.Epoch - uint64(b[1]%4)/3, Seen: uint64(b[2]), Out: int32(b[3] % 3)}
	f.Now = c.now + Instant(int16(binary.BigEndian.Uint16(b[4:])))
	f.Began = f.Now - Instant(b[3])
	switch f.Kind {
	case Reconfigured:
		f.Settings = &cfgs[int(b[1])%len(cfgs)]
	case Ordered:
		f.Order = &BreakerOrder{Kind: BreakerOrderKind(1 + b[1]%5), Reason: "fuzz"}
		if f.Order.Kind <= Disable {
			f.Order.TTL = time.Duration(b[2])
		}
	}
	return f
}

func FuzzBreakerCore(f *testing.F) {
	cfgs := []Breaker{
		{Consecutive: 2, OpenFor: 100, OpenMax: 5000, OpenJitter: 0.5, Seed: 3, Probes: 2, Ramp: []float64{0.1, 0.5}, RampStep: 50},
		{Calls: 3, SlowCall: 1, SlowRate: 0.5, OpenFor: 100, Probes: 3, ProbeFailureRate: 0.5},
		{MinCalls: 2, Window: 10 * time.Millisecond, OpenFor: 1, Probes: 1, Ramp: []float64{0.9}, RampStep: 1},
	}
	for i := range cfgs {
		cfgs[i] = cfgs[i].WithDefaults().(Breaker)
		require.NoError(f, cfgs[i].Validate())
	}
	cfgs[0].Dwell = 500 // less than is valid, so that scripts get past it
	f.Add([]byte("\x01\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x01\x03\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00"))
	f.Add([]byte("\x06\x00\x20\x00\x00\x01\x01\x00\x00\x00\x00\x01\x06\x01\x00\x00\x00\x01\x01\x00\x09\x00\x00\x30\x06\x03\x00\x00\x00\x00\x05\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, script []byte) {
		c, again := NewBreaker(cfgs[0], nil), NewBreaker(cfgs[0], nil)
		for len(script) >= 6 {
			fact := factOf(script[:6], c, cfgs)
			script = script[6:]
			before := c.Snapshot()
			changed := c.Apply(fact)
			s := c.Snapshot()
			require.Equal(t, changed, again.Apply(fact))
			require.Equal(t, s, again.Snapshot(), "the same facts lead to the same decisions")
			require.Equal(t, c.Next(), again.Next())
			if !changed {
				require.Equal(t, before, s)
			}
			require.GreaterOrEqual(t, s.Epoch, before.Epoch)
			require.GreaterOrEqual(t, s.Trips, before.Trips)
			require.GreaterOrEqual(t, s.Orders, before.Orders)
			if s.State != before.State || s.Trips != before.Trips {
				require.Greater(t, s.Epoch, before.Epoch)
				require.NotEmpty(t, s.Cause)
			}
			require.Equal(t, s.State == Open, s.Until != 0)
			require.Equal(t, s.State == Ramping, s.Share != 0)
			require.Equal(t, s.State == Ramping, s.Grows != 0)
			require.False(t, s.Hung && s.State != Open)
			require.LessOrEqual(t, s.OpenDelay, s.Settings.OpenMax+cfgs[0].OpenMax)
			require.LessOrEqual(t, s.Slow, s.Good+s.Bad)
			require.GreaterOrEqual(t, s.Run, 0)
			require.GreaterOrEqual(t, s.Streak, 0)
			require.LessOrEqual(t, uint64(s.Streak), s.Trips)
			require.EqualValues(t, s.Settings.Probes, s.Probes)
			if s.OrderUntil != 0 {
				require.NotZero(t, s.Order.Kind)
			}
			if before.Order.Kind == ForceOpen && s.Order == before.Order && fact.Kind != Reconfigured {
				require.Equal(t, before.State, s.State)
			}
			if n := c.seen.counts(); s.Settings.Calls > 0 {
				require.LessOrEqual(t, n.Total(), uint64(s.Settings.Calls))
			}
		}
		s := c.Snapshot()
		revived := NewBreaker(Breaker{}, &s)
		r := revived.Snapshot()
		require.Greater(t, r.Epoch, s.Epoch)
		r.Epoch = s.Epoch
		require.Equal(t, s, r, "a restart keeps the decision")
	})
}
