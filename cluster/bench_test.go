package cluster_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
)

// BenchmarkConsume takes tasks of 256 bytes, 256 in flight, with a handler that does nothing; BareConsume is
// the client's own Consume with an acknowledgement that nobody waits for.
func BenchmarkConsume(b *testing.B) {
	js, c := fill(b)
	in := newSlots(256)
	work := make(chan *cluster.Delivery, 256)
	done := make(chan struct{}, b.N)
	var k *cluster.Consumer
	started := make(chan struct{})
	for range 256 {
		go func() {
			<-started
			for d := range work {
				in.Release(1)
				k.Wake()
				if d.Ack(context.Background()) == nil {
					done <- struct{}{}
				}
			}
		}()
	}
	_ = js
	b.ResetTimer()
	var err error
	k, err = c.Consume(b.Context(), cluster.ConsumeConfig{Type: "a", MaxInFlight: 512}, in, func(d *cluster.Delivery) { work <- d })
	if err != nil {
		b.Fatal(err)
	}
	close(started)
	for range b.N {
		<-done
	}
	b.StopTimer()
	k.Stop()
	_ = k.Drained(context.Background())
	close(work)
}

func BenchmarkBareConsume(b *testing.B) {
	js, _ := fill(b)
	cons, err := js.CreateConsumer(b.Context(), "FORSETI_TASKS", jetstream.ConsumerConfig{Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 512})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{}, b.N)
	b.ResetTimer()
	cc, err := cons.Consume(func(m jetstream.Msg) { _ = m.Ack(); done <- struct{}{} })
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		<-done
	}
	b.StopTimer()
	cc.Stop()
	<-cc.Closed()
}

func fill(b *testing.B) (jetstream.JetStream, *cluster.Cluster) {
	s := clustertest.Server(b)
	c := clustertest.Connect(b, s, "n1", clustertest.OnDisk)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 256)
	for range b.N {
		if _, err := js.PublishAsync("forseti.v1.task.a", body); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	return js, c
}
