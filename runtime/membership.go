package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// enter makes this node known to the others, and ready to do the janitor's work.
func (rt *Runtime) enter(ctx context.Context, cfg *Config) (err error) {
	version := cfg.Version
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		version = info.Main.Version
	}
	admin := cfg.Admin
	rt.member, err = rt.cluster.Join(ctx, cluster.JoinConfig{
		Describe: func() cluster.NodeInfo {
			n := cluster.NodeInfo{Version: version, Admin: admin, Draining: rt.isDraining(), Load: rt.sys.Traffic().Running}
			rt.mu.Lock()
			defer rt.mu.Unlock()
			for typ := range rt.handlers {
				n.Types = append(n.Types, typ)
			}
			return n
		},
		NameTaken: rt.nameTaken,
	})
	if err != nil {
		return err
	}
	rt.janitor, err = rt.cluster.StartJanitor(cluster.JanitorConfig{
		UnhandledAfter: cfg.UnhandledAfter, Tell: rt.sys.Publish, FoldAfter: foldAfter,
		Folds: map[string]func(older, newer cluster.Tally) (cluster.Tally, error){errorTally: foldErrorBudgets},
	})
	return err
}

// nameTaken is told that another node has our name. Both work on: which of them is to go is an operator's to say.
func (rt *Runtime) nameTaken(e *cluster.NameTakenError) {
	rt.double.Store(e)
	rt.log.Error("another node has this node's name", slog.Any("error", e))
	rt.sys.Publish(messages.Event{Kind: messages.NodeNameTaken, Source: e.Name, Reason: e.Error(), Data: messages.NodeRef{Incarnation: e.Incarnation, Admin: e.Admin}})
}

// announce tells the others what has changed here.
func (rt *Runtime) announce(ctx context.Context) error {
	if rt.member == nil {
		return nil
	}
	return rt.member.Announce(ctx)
}

// depart says goodbye, and leaves the janitor's work to another node. What it could not say the others find out.
func (rt *Runtime) depart(ctx context.Context) {
	if rt.janitor != nil {
		if err := rt.janitor.Stop(ctx); err != nil {
			rt.log.Warn("janitor not stopped", slog.Any("error", err))
		}
	}
	if rt.member != nil {
		if err := rt.member.Leave(ctx); err != nil {
			rt.log.Warn("no goodbye", slog.Any("error", err))
		}
	}
}

// doubled says who else has this node's name; empty: nobody.
func (rt *Runtime) doubled() string {
	if e := rt.double.Load(); e != nil {
		return fmt.Sprintf("another node has the name %s, incarnation %s", e.Name, e.Incarnation)
	}
	return ""
}

// announceDraining tells the others that this node takes no more work. It does not keep the drain waiting for long.
func (rt *Runtime) announceDraining(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := rt.announce(ctx); err != nil {
		rt.log.Warn("draining not announced", slog.Any("error", err))
	}
}
