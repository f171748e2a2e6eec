package forsetihttp

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/runtime"
)

// Probes serves what orchestrators and people ask a node:
//
//	GET /livez     200 while the actor system answers; 503 when it has not for 30 s, or has ended: restart the process
//	GET /readyz    200 while the node takes work, also with less than it should have; 503 while it does not: send no work.
//	               With ?verbose it says why, and what is degraded
//	GET /healthz   200 or 503 as /readyz, with every part of the node and how it is, as JSON: runtime.HealthReport
//
// Open breakers, a kill switch that is on and exhausted budgets are business, not health. Answers come at once, from what is
// known; only /healthz waits for checks, two seconds at most. The handler is safe for concurrent use.
func Probes(rt *runtime.Runtime) http.Handler {
	var answered atomic.Int64 // when the actor system did, last
	answered.Store(time.Now().UnixNano())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		if rt.Phase() == runtime.Terminated {
			probed(w, http.StatusServiceUnavailable, "terminated")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), livePatience)
		defer cancel()
		if rt.Live(ctx) == nil {
			answered.Store(time.Now().UnixNano())
		}
		if silence := time.Since(time.Unix(0, answered.Load())); silence > deadAfter {
			probed(w, http.StatusServiceUnavailable, "the actor system has not answered for "+silence.Round(time.Second).String())
			return
		}
		probed(w, http.StatusOK, "live")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready := rt.Ready()
		status, lines := readiness(ready)
		if r.URL.Query().Has("verbose") {
			lines = append(lines, ready.Details...)
		}
		probed(w, status, lines...)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		status, _ := readiness(rt.Ready())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(rt.HealthCheckAll(r.Context()))
	})
	return mux
}

const (
	livePatience = time.Second
	deadAfter    = 30 * time.Second
)

func readiness(r runtime.Readiness) (status int, lines []string) {
	switch {
	case !r.Ready:
		return http.StatusServiceUnavailable, []string{"not ready"}
	case r.Degraded:
		return http.StatusOK, []string{"ready, degraded"}
	}
	return http.StatusOK, []string{"ready"}
}

func probed(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	for _, l := range lines {
		_, _ = w.Write([]byte(l + "\n"))
	}
}
