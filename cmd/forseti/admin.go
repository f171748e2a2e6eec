package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
	"github.com/forseti-go/forseti/runtime/forsetiprom"
)

// admin serves what orchestrators ask a node.
type admin struct {
	addr   string
	server *http.Server
	ended  chan struct{}
}

// startAdmin listens at addr; "" means not at all, and nil.
func startAdmin(addr string, rt *runtime.Runtime, log *slog.Logger) (*admin, error) {
	if addr == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, tryTo(&failure{err: errors.Join(errors.New("--admin"), err), code: exitConflict}, "--admin with a port that is free, or none")
	}
	mux := http.NewServeMux()
	mux.Handle("/", forsetihttp.Probes(rt))
	mux.Handle("GET /metrics", forsetiprom.Handler(rt))
	a := &admin{addr: listener.Addr().String(), ended: make(chan struct{}), server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}}
	go func() {
		defer close(a.ended)
		if err := a.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin", slog.Any("error", err))
		}
	}()
	return a, nil
}

func (a *admin) stop(ctx context.Context) error {
	if a == nil {
		return nil
	}
	err := a.server.Shutdown(ctx)
	<-a.ended
	return err
}
