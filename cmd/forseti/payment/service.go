package payment

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// maxBody bounds what is read of a request.
const maxBody = 64 << 10

// A healthy answer takes this long, evenly spread.
const (
	latencyMin = 5 * time.Millisecond
	latencyMax = 15 * time.Millisecond
)

// The modes by name.
const (
	OK      = "ok"      // every request is answered within milliseconds
	Slow    = "slow"    // a share of the requests takes Mode.Latency
	Failing = "failing" // a share of the requests gets status 500
)

// Mode is how the service behaves.
type Mode struct {
	Name string `json:"mode"`
	// Share of the requests that are slow, or fail: 0 to 1.
	Share float64 `json:"share,omitempty"`
	// Latency of the slow ones, in milliseconds: up to a minute.
	Latency int `json:"latency_ms,omitempty"`
}

// Validate reports everything that is wrong with m, joined, each as a [messages.FieldError].
func (m Mode) Validate() error {
	var errs []error
	if m.Name != OK && m.Name != Slow && m.Name != Failing {
		errs = append(errs, &messages.FieldError{Field: "mode", Value: m.Name, Allowed: OK + ", " + Slow + " or " + Failing})
	}
	if !(m.Share >= 0 && m.Share <= 1) {
		errs = append(errs, &messages.FieldError{Field: "share", Value: m.Share, Allowed: "0 to 1"})
	}
	if m.Latency < 0 || m.Latency > 60_000 {
		errs = append(errs, &messages.FieldError{Field: "latency_ms", Value: m.Latency, Allowed: "0 to 60000"})
	}
	return errors.Join(errs...)
}

// Order is what a request asks for.
type Order struct {
	Order  int `json:"order"`
	Amount int `json:"amount"` // in cents
}

// Receipt is what an answer says.
type Receipt struct {
	Order  int    `json:"order"`
	Amount int    `json:"amount"`
	Kind   string `json:"kind"` // "charge" or "quote"; whoever answers in the service's place says so here
}

// Status is what the control endpoint tells.
type Status struct {
	Mode
	Requests int `json:"requests"` // since the process started
	Failed   int `json:"failed"`   // of those, the ones answered with 500
	Slowed   int `json:"slowed"`   // and the ones that took Latency
}

// Service is the payment service. It is safe for concurrent use.
type Service struct {
	mux *http.ServeMux

	mu       sync.Mutex
	mode     Mode
	rng      *rand.Rand
	arrivals []int64 // Unix nanoseconds, in order; kept as long as the process lives
	failed   int
	slowed   int
}

// New makes a service in mode OK that draws from seed.
func New(seed uint64) *Service {
	s := &Service{mux: http.NewServeMux(), mode: Mode{Name: OK}, rng: rand.New(rand.NewPCG(seed, 0x70617965))}
	s.mux.HandleFunc("POST /charge", func(w http.ResponseWriter, r *http.Request) { s.pay(w, r, "charge") })
	s.mux.HandleFunc("POST /quote", func(w http.ResponseWriter, r *http.Request) { s.pay(w, r, "quote") })
	s.mux.HandleFunc("GET /control", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Status()) })
	s.mux.HandleFunc("PUT /control", s.setMode)
	s.mux.HandleFunc("GET /control/arrivals", s.listArrivals)
	return s
}

// ServeHTTP answers a request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Status reports mode and counts.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Mode: s.mode, Requests: len(s.arrivals), Failed: s.failed, Slowed: s.slowed}
}

// draw notes an arrival and decides what becomes of it. The draws come in the order of the arrivals.
func (s *Service) draw(now time.Time) (latency time.Duration, fail bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, now.UnixNano())
	latency = latencyMin + time.Duration(s.rng.Int64N(int64(latencyMax-latencyMin)))
	hit := s.rng.Float64() < s.mode.Share
	switch {
	case hit && s.mode.Name == Slow:
		s.slowed++
		latency = time.Duration(s.mode.Latency) * time.Millisecond
	case hit && s.mode.Name == Failing:
		s.failed++
		fail = true
	}
	return latency, fail
}

func (s *Service) pay(w http.ResponseWriter, r *http.Request, kind string) {
	latency, fail := s.draw(time.Now())
	var o Order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&o); err != nil {
		http.Error(w, "body: want an order and an amount as JSON", http.StatusBadRequest)
		return
	}
	t := time.NewTimer(latency)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done(): // the caller gave up
		return
	}
	if fail {
		http.Error(w, "the ledger is on fire", http.StatusInternalServerError)
		return
	}
	reply(w, Receipt{Order: o.Order, Amount: o.Amount, Kind: kind})
}

func (s *Service) setMode(w http.ResponseWriter, r *http.Request) {
	var m Mode
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&m)
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("mode: %v", err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.mode = m
	s.mu.Unlock()
	reply(w, s.Status())
}

// listArrivals tells the arrivals from one instant up to another, both in Unix nanoseconds.
func (s *Service) listArrivals(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, err1 := strconv.ParseInt(q.Get("from"), 10, 64)
	to, err2 := strconv.ParseInt(q.Get("to"), 10, 64)
	if err1 != nil || err2 != nil {
		http.Error(w, "from and to: want Unix nanoseconds", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	found := []int64{}
	for _, at := range s.arrivals { // nearly sorted: two requests may read the clock in another order than they get here
		if at >= from && at < to {
			found = append(found, at)
		}
	}
	s.mu.Unlock()
	slices.Sort(found)
	reply(w, found)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked is gone: nobody is left to tell
}
