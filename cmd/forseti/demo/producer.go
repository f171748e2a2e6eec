package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/cmd/forseti/payment"
)

// rate is how many tasks the producer publishes in a second, half of them charges.
const rate = 200

// idPrefix starts the ids of the producer's tasks; a visitor's own tasks have others.
const idPrefix = "demo-"

// prefix starts all subjects of the demonstration's installation: the default one.
const prefix = "forseti.v1"

// producer publishes tasks as any program could: a subject, a body and a message id, over a NATS connection of its
// own. It counts what the server acknowledged.
type producer struct {
	js  jetstream.JetStream
	rng *rand.Rand

	mu       sync.Mutex
	acked    map[string]string // id to kind, of what the server said is stored
	repeated int               // publishes that had to be sent again
	err      error             // why a task could not be stored
}

func newProducer(nc *nats.Conn, seed uint64) (*producer, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	return &producer{js: js, rng: rand.New(rand.NewPCG(seed, 0x6f72646572)), acked: map[string]string{}}, nil
}

// pending is a publish that waits for the server's word.
type pending struct {
	msg    *nats.Msg
	kind   string
	answer jetstream.PubAckFuture
}

// word is the server's word on a publish; it is not known if enough is closed first. It can be taken once.
func (q pending) word(enough <-chan struct{}) (known bool, err error) {
	select { // what is there already comes first
	case <-q.answer.Ok():
		return true, nil
	case err = <-q.answer.Err():
		return true, err
	default:
	}
	select {
	case <-q.answer.Ok():
		return true, nil
	case err = <-q.answer.Err():
		return true, err
	case <-enough:
		return false, nil
	}
}

// closed is for those who do not wait.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// run publishes until stop is closed, then waits until all is acknowledged. It ends early with ctx.
func (p *producer) run(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	var queue []pending
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			for _, q := range queue {
				if known, err := q.word(ctx.Done()); known {
					p.settle(ctx, q, err)
				}
			}
			return
		case <-tick.C:
		}
		for due := int(time.Since(start).Seconds() * rate); sent < due; sent++ {
			q, err := p.publish(sent)
			if err != nil {
				p.fail(err)
				return
			}
			queue = append(queue, q)
		}
		for len(queue) > 0 {
			known, err := queue[0].word(closed)
			if !known {
				break
			}
			p.settle(ctx, queue[0], err)
			queue = queue[1:]
		}
	}
}

func (p *producer) publish(n int) (pending, error) {
	kind := kinds[n%len(kinds)]
	body, err := json.Marshal(payment.Order{Order: n, Amount: 100 + p.rng.IntN(20_000)})
	if err != nil {
		return pending{}, err
	}
	m := &nats.Msg{Subject: prefix + ".task." + kind, Data: body, Header: nats.Header{}}
	m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%s%06d", idPrefix, n))
	m.Header.Set("content-type", "application/json")
	answer, err := p.js.PublishMsgAsync(m)
	return pending{m, kind, answer}, err
}

// settle takes the server's word on one task. A task that it did not store is sent again: its id keeps a copy out.
func (p *producer) settle(ctx context.Context, q pending, err error) {
	for try := 0; err != nil && try < 5 && ctx.Err() == nil; try++ {
		again, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err = p.js.PublishMsg(again, q.msg)
		cancel()
		p.mu.Lock()
		p.repeated++
		p.mu.Unlock()
	}
	if err != nil {
		p.fail(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked[q.msg.Header.Get(nats.MsgIdHdr)] = q.kind
}

func (p *producer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = errors.Join(p.err, fmt.Errorf("publish: %w", err))
}

// count is how many tasks the server acknowledged so far.
func (p *producer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// published is what the server acknowledged: id to kind.
func (p *producer) published() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.acked)
}

// failure is why a task could not be stored; nil when all could.
func (p *producer) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// ours reports whether a task is the producer's.
func ours(id string) bool { return strings.HasPrefix(id, idPrefix) }
