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
	addr     string
	listener net.Listener
	server   *http.Server
	ended    chan struct{} // nil until it serves
}

// listenAdmin listens at addr; "" means not at all, and nil. Who asks before serve has to wait.
func listenAdmin(addr string) (*admin, error) {
	if addr == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, tryTo(&failure{err: errors.Join(errors.New("--admin"), err), code: exitConflict}, "--admin with a port that is free, or none")
	}
	return &admin{addr: listener.Addr().String(), listener: listener}, nil
}

func (a *admin) address() string {
	if a == nil {
		return ""
	}
	return a.addr
}

func (a *admin) serve(rt *runtime.Runtime, log *slog.Logger) {
	if a == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/", forsetihttp.Probes(rt))
	mux.Handle("GET /metrics", forsetiprom.Handler(rt))
	a.ended = make(chan struct{})
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	go func() {
		defer close(a.ended)
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin", slog.Any("error", err))
		}
	}()
}

func (a *admin) stop(ctx context.Context) error {
	switch {
	case a == nil:
		return nil
	case a.ended == nil:
		return a.listener.Close()
	}
	err := a.server.Shutdown(ctx)
	<-a.ended
	return err
}
