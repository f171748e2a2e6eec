package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/forseti-go/forseti/messages"
)

// Strategies are served and asked by core requests to ml.<kind>.<name>, in JSON; see CONTRACT.md. The documents are package runtime's.

func (n names) strategy(kind, name string) string { return n.prefix + ".ml." + kind + "." + name }

func checkStrategy(kind, name string) error {
	for field, token := range map[string]string{"kind": kind, "name": name} {
		if !messages.ValidToken(token) {
			return fmt.Errorf("strategy: %w", &messages.FieldError{Field: field, Value: token, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
		}
	}
	return nil
}

// ServeStrategy answers requests to a strategy, one of all nodes that serve it. answer is called on goroutines of its own, at
// most 64 at a time: what comes meanwhile is refused with code 503. An error of answer is told with code 400 if it matches [messages.ErrInvalid], else 500. It
// goes on until [Cluster.StopCalls] or Close.
func (c *Cluster) ServeStrategy(kind, name string, answer func(ctx context.Context, request []byte) ([]byte, error)) error {
	if err := checkStrategy(kind, name); err != nil {
		return err
	}
	svc, err := c.callService()
	if err != nil {
		return fmt.Errorf("strategy %s: %w", name, unavailable(err))
	}
	places := make(chan struct{}, 64)
	handle := func(m micro.Request) {
		select {
		case places <- struct{}{}:
		default:
			_ = m.Error("503", "too many requests at once", nil)
			return
		}
		if !c.own(func() {
			defer func() { <-places }()
			ctx, cancel := bounded(c.ctx)
			defer cancel()
			reply, err := answer(ctx, m.Data())
			if err != nil {
				_ = m.Error(strategyCode(err), oneLine(err.Error(), "failed"), nil)
				return
			}
			_ = m.Respond(reply)
		}) {
			<-places
		}
	}
	err = svc.AddEndpoint("ml-"+kind+"-"+name, micro.HandlerFunc(handle), micro.WithEndpointSubject(c.names.strategy(kind, name)),
		micro.WithEndpointQueueGroup(callQueue), micro.WithEndpointPendingLimits(maxWaitingCall, -1))
	if err == nil {
		err = c.nc.FlushTimeout(requestTimeout)
	}
	if err != nil {
		return fmt.Errorf("strategy %s: %w", name, unavailable(err))
	}
	return nil
}

// AskStrategy asks whoever serves a strategy. Nobody there, and no answer in time, match [messages.ErrUnavailable]; a request that
// was refused as malformed matches [messages.ErrInvalid].
func (c *Cluster) AskStrategy(ctx context.Context, kind, name string, request []byte) ([]byte, error) {
	if err := checkStrategy(kind, name); err != nil {
		return nil, err
	}
	m, err := c.nc.RequestWithContext(ctx, c.names.strategy(kind, name), request)
	if err != nil {
		return nil, fmt.Errorf("strategy %s: %w: %w", name, messages.ErrUnavailable, err)
	}
	switch code := m.Header.Get(headerServiceErrorCode); code {
	case "":
		return m.Data, nil
	case "400":
		return nil, fmt.Errorf("strategy %s: %w: %s", name, messages.ErrInvalid, m.Header.Get(headerServiceError))
	default:
		return nil, fmt.Errorf("strategy %s: %w: %s %s", name, messages.ErrUnavailable, code, m.Header.Get(headerServiceError))
	}
}

func strategyCode(err error) string {
	if errors.Is(err, messages.ErrInvalid) {
		return "400"
	}
	return "500"
}

const strategyVerb = "ml"

// OnStrategyOrder has obey called with each order for strategies that an operator pushes to all nodes, one after the other, and sends what it
// returns to who asked; nil: nothing. It goes on until Close.
func (c *Cluster) OnStrategyOrder(obey func(order []byte) []byte) error {
	_, err := c.nc.Subscribe(c.names.control(strategyVerb), func(m *nats.Msg) {
		if answer := obey(m.Data); answer != nil && m.Reply != "" {
			if err := c.nc.Publish(m.Reply, answer); err != nil {
				c.log.Warn("order not answered", "error", err)
			}
		}
	})
	if err == nil {
		err = c.nc.FlushTimeout(requestTimeout)
	}
	if err != nil {
		return fmt.Errorf("orders for strategies: %w", unavailable(err))
	}
	return nil
}

// PushStrategyOrder pushes an order to all nodes and collects their answers for as long as wait: who they are is not known
// beforehand.
func (c *Cluster) PushStrategyOrder(ctx context.Context, order []byte, wait time.Duration) (answers [][]byte, err error) {
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("order for strategies: %w", unavailable(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.nc.PublishMsg(&nats.Msg{Subject: c.names.control(strategyVerb), Reply: inbox, Data: order}); err != nil {
		return nil, fmt.Errorf("order for strategies: %w", unavailable(err))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for len(answers) < maxAnswers {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		if m.Header.Get("Status") == "" { // 503: nobody is there
			answers = append(answers, m.Data)
		} else {
			break
		}
	}
	return answers, nil
}

// maxAnswers bounds what is collected.
const maxAnswers = 10_000
