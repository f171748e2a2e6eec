package actors

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Governance makes one guard of several checks: all must allow. They are asked in order, and the first refusal is the
// verdict, of the governance's name, with its own reason, cause and RetryAfter; Metadata["check"] names the check.
//
// Each check has its own mode: FailClosed and FailOpen around the check count before one around the governance, which is
// for those that have none. An Observed check refuses nothing; Observed around the governance is advice: it counts and
// tells what it would have refused. Pipeline.Guards counts the checks one by one.
//
// It takes 1 to 32 checks, governances among them, but not the kill switch, which has a place and modes of its own.
func Governance(name string, checks ...Guard) Guard {
	return &governance{name: name, checks: checks}
}

// AnyOf is a Governance of which one check that allows is enough: those after it are not asked. When all refuse, the
// verdict is the first one's, with the shortest of their RetryAfters. A check that is broken and fails open allows; one
// that only looks on is asked when it is its turn, and neither allows nor refuses.
func AnyOf(name string, checks ...Guard) Guard {
	return &governance{name: name, checks: checks, any: true}
}

// governance stands for the guard until a pipeline is built.
type governance struct {
	name   string
	checks []Guard
	any    bool
}

func (g *governance) Name() string                               { return g.name }
func (*governance) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

func (g *governance) reside(at *guardGate) (asker, error) {
	var errs []error
	if n := len(g.checks); n == 0 || n > maxGuards {
		errs = append(errs, &messages.FieldError{Field: at.field, Value: n, Allowed: "1 to 32 checks"})
	}
	all, seen := &council{any: g.any}, map[string]int{}
	for i, check := range g.checks[:min(len(g.checks), maxGuards)] {
		c := &guardGate{pipe: at.pipe, within: at.name + "/", field: fmt.Sprintf("%s.checks[%d]", at.field, i), closed: at.closed, advises: at.observed || at.advises}
		errs = append(errs, c.become(check, seen)...)
		all.checks = append(all.checks, c)
	}
	return all, errors.Join(errs...)
}

// council is a governance of one pipeline.
type council struct {
	checks []*guardGate
	any    bool
}

func (all *council) ask(c *call) (*messages.RejectedError, error) {
	if all.any {
		return all.oneOf(c), nil
	}
	for _, check := range all.checks {
		if refused := check.decide(c); refused != nil {
			return check.blamed(refused), nil
		}
	}
	return nil, nil
}

func (all *council) oneOf(c *call) *messages.RejectedError {
	var first *messages.RejectedError
	soonest := time.Duration(0)
	for _, check := range all.checks {
		refused := check.decide(c)
		if refused == nil {
			if check.observed {
				continue
			}
			return nil
		}
		if first == nil {
			first = check.blamed(refused)
		}
		if after := refused.RetryAfter; after > 0 && (soonest == 0 || after < soonest) {
			soonest = after
		}
	}
	if first != nil {
		first.RetryAfter = soonest
	}
	return first
}

// blamed is the check's refusal as that of the guard around it. The metadata may be the guard's, the same for all calls.
func (g *guardGate) blamed(refused *messages.RejectedError) *messages.RejectedError {
	meta := make(map[string]any, len(refused.Metadata)+1)
	maps.Copy(meta, refused.Metadata)
	meta["check"] = strings.TrimPrefix(g.name, g.within)
	return &messages.RejectedError{Reason: refused.Reason, RetryAfter: refused.RetryAfter, Metadata: meta, Cause: refused.Cause}
}

// detail lists the checks.
func (all *council) detail() string {
	var drawn []string
	for _, check := range all.checks {
		drawn = append(drawn, check.drawn())
	}
	how := "all of"
	if all.any {
		how = "any of"
	}
	return how + " (" + strings.Join(drawn, "; ") + ")"
}

// borrow and giveBack are for what the checks share with other pipelines.
func (all *council) borrow() error {
	var errs []error
	for _, check := range all.checks {
		errs = append(errs, check.borrow())
	}
	return errors.Join(errs...)
}

func (all *council) giveBack() {
	for _, check := range all.checks {
		check.giveBack()
	}
}
