package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/cluster"
)

// The kinds of what a fleet counts together.
const (
	errorTally = "error"
	retryTally = "retry"
)

// FleetFlush is how often a node tells the others what it has counted for budgets of the fleet, a tenth more or less: of a node
// that is killed, what it counted since is lost. One that is stopped tells them first.
const FleetFlush = time.Second

// foldAfter is when what nodes that are gone have counted is put together; 0 for the default.
var foldAfter time.Duration

// fleetKeep is how much longer than its window what a node counted is kept.
const fleetKeep = 10 * time.Minute

// fleetBudgets tells the other nodes what this one has counted, and its budgets what the others have. Its fields belong to its
// goroutine, but for news.
type fleetBudgets struct {
	rt      *Runtime
	tallies *cluster.Tallies
	news    chan struct{} // of one place
	turn    chan struct{} // whoever tells has it

	written map[cluster.TallyKey]stats.Events // how far what the others were told is
	retries map[string]policy.RetryShare      // what others were told
	shared  map[string]bool                   // budgets that know what others counted
}

// shareBudgets begins with it, until ctx ends.
func (rt *Runtime) shareBudgets(ctx context.Context) (err error) {
	f := &fleetBudgets{
		rt: rt, news: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		written: map[cluster.TallyKey]stats.Events{}, retries: map[string]policy.RetryShare{}, shared: map[string]bool{},
	}
	f.tallies, err = rt.cluster.StartTallies(ctx, func() {
		select {
		case f.news <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	rt.fleet = f
	rt.running.Go(func() { f.run(ctx) })
	return nil
}

func (f *fleetBudgets) run(ctx context.Context) {
	for flush := time.Now(); ; {
		next := time.NewTimer(time.Until(flush))
		news := false
		select {
		case <-f.news:
			next.Stop()
			news = true
			next.Reset(min(time.Until(flush), FleetFlush/10)) // what comes together is dealt with together
			select {
			case <-next.C:
			case <-ctx.Done():
			}
		case <-next.C:
		case <-ctx.Done():
		}
		next.Stop()
		if ctx.Err() != nil {
			return
		}
		if !time.Now().Before(flush) {
			flush = time.Now().Add(FleetFlush*9/10 + rand.N(FleetFlush/5))
			f.tell(ctx)
		}
		f.listen(ctx, news)
	}
}

// tell writes what is new. What cannot be written is so again the next time.
func (f *fleetBudgets) tell(ctx context.Context) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return
	}
	if !f.rt.cluster.Status().Connected {
		return
	}
	errorBudgets, retryBudgets := f.rt.sys.FleetBudgets()
	for _, name := range errorBudgets {
		if err := f.tellErrors(ctx, name); err != nil && ctx.Err() == nil {
			f.rt.log.Warn("error budget not shared", slog.String("budget", name), slog.Any("error", err))
		}
	}
	for _, name := range retryBudgets {
		if err := f.tellRetries(ctx, name); err != nil && ctx.Err() == nil {
			f.rt.log.Warn("retry budget not shared", slog.String("budget", name), slog.Any("error", err))
		}
	}
}

func (f *fleetBudgets) tellErrors(ctx context.Context, name string) error {
	status, _ := f.rt.sys.ErrorBudgetStatus(name)
	own, err := f.rt.sys.OwnErrorBudget(ctx, name, func(s policy.Series, e stats.Events) bool {
		return f.written[errorKey(name, s)] != e
	})
	if err != nil {
		return err
	}
	for _, x := range own.Series {
		one := policy.ErrorBudgetState{At: own.At, Series: []policy.SeriesState{x}}
		body, err := one.MarshalBinary()
		if err != nil {
			return err
		}
		key := errorKey(name, x.Series)
		err = f.tallies.Put(ctx, key, cluster.Tally{At: time.Unix(0, own.At), Keep: status.Settings.Window + fleetKeep, Body: body})
		switch {
		case errors.Is(err, cluster.ErrTallyTaken):
			return f.listenErrors(ctx, name) // what others keep is taken out of our own; the rest is written the next time
		case err != nil:
			return err
		}
		f.written[key] = x.Counted
	}
	return nil
}

// errorKey is where a series of an error budget is counted.
func errorKey(name string, s policy.Series) cluster.TallyKey {
	part := s.String()
	if s.Keyed { // the texts of two may be equal
		part = "by " + strconv.Quote(string(s.Tier)) + strconv.Quote(s.Region) + strconv.Quote(s.Domain)
	}
	return cluster.TallyKey{Kind: errorTally, Name: name, Part: cluster.SubjectToken(part)}
}

func stateOf(t cluster.Tally) (s policy.ErrorBudgetState, err error) {
	err = s.UnmarshalBinary(t.Body)
	s.At = t.At.UnixNano()
	return s, err
}

// listenErrors tells an error budget what all other nodes have counted, and what of that is from this one.
func (f *fleetBudgets) listenErrors(ctx context.Context, name string) error {
	var others []policy.ErrorBudgetState
	var mine *policy.ErrorBudgetState
	for _, part := range f.tallies.Parts(errorTally, name) {
		all, kept := f.tallies.Others(cluster.TallyKey{Kind: errorTally, Name: name, Part: part})
		for _, t := range all {
			s, err := stateOf(t)
			if err != nil {
				f.rt.log.Warn("what another node counted cannot be read", slog.String("budget", name), slog.String("node", t.Node), slog.Any("error", err))
				continue
			}
			others = append(others, s)
		}
		if kept == nil {
			continue
		}
		s, err := stateOf(*kept)
		if err != nil {
			return err
		}
		if mine == nil {
			mine = &policy.ErrorBudgetState{}
		}
		mine.Merge(&s)
	}
	return f.rt.sys.ShareErrorBudget(ctx, name, others, mine)
}

// retryWindow is what a node has in the window of a retry budget.
type retryWindow struct {
	Calls   uint64        `json:"calls"`
	Retries uint64        `json:"retries"`
	Window  time.Duration `json:"window"`
}

func (f *fleetBudgets) tellRetries(ctx context.Context, name string) error {
	own, cfg, err := f.rt.sys.OwnRetryBudget(name)
	if err != nil || own == (policy.RetryShare{}) && f.retries[name] == own {
		return err // nothing, and the others know
	}
	body, err := json.Marshal(retryWindow{Calls: own.Calls, Retries: own.Retries, Window: cfg.Window})
	if err != nil {
		return err
	}
	key := cluster.TallyKey{Kind: retryTally, Name: name, Part: "all"}
	if err = f.tallies.Put(ctx, key, cluster.Tally{At: f.rt.cluster.Now(), Keep: cfg.Window, Body: body}); err == nil {
		f.retries[name] = own
	}
	return err
}

// listen gives the budgets what others have counted: error budgets when there is news, retry budgets each time, because what
// others have in their windows grows old.
func (f *fleetBudgets) listen(ctx context.Context, news bool) {
	errorBudgets, retryBudgets := f.rt.sys.FleetBudgets()
	for _, name := range errorBudgets {
		if !news && f.shared[name] {
			continue
		}
		f.shared[name] = true
		if err := f.listenErrors(ctx, name); err != nil && ctx.Err() == nil {
			delete(f.shared, name)
			f.rt.log.Warn("error budget not told of others", slog.String("budget", name), slog.Any("error", err))
		}
	}
	now := f.rt.cluster.Now()
	for _, name := range retryBudgets {
		var others policy.RetryShare
		all, _ := f.tallies.Others(cluster.TallyKey{Kind: retryTally, Name: name, Part: "all"})
		for _, t := range all {
			var w retryWindow
			if json.Unmarshal(t.Body, &w) == nil && now.Sub(t.At) < w.Window {
				others.Calls, others.Retries = others.Calls+w.Calls, others.Retries+w.Retries
			}
		}
		if err := f.rt.sys.ShareRetryBudget(ctx, name, others); err != nil && ctx.Err() == nil {
			f.rt.log.Warn("retry budget not told of others", slog.String("budget", name), slog.Any("error", err))
		}
	}
}

// foldErrorBudgets makes one tally of two that nodes left behind.
func foldErrorBudgets(older, newer cluster.Tally) (cluster.Tally, error) {
	a, err := stateOf(older)
	if err != nil {
		return newer, fmt.Errorf("what is kept: %w", err)
	}
	b, err := stateOf(newer)
	if err != nil {
		return newer, err
	}
	a.Merge(&b)
	body, err := a.MarshalBinary()
	return cluster.Tally{At: time.Unix(0, a.At), Keep: max(older.Keep, newer.Keep), Body: body}, err
}
