package payment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Greeting starts the line that says where the service listens; the URL follows.
const Greeting = "listening on "

// Config is what Serve needs.
type Config struct {
	Listen string // host:port; port 0 takes a free one
	Seed   uint64
	// Alive is read until it ends, and with it the service: the standard input, held open by whoever started it.
	// nil means that only the context ends it.
	Alive io.Reader
	// Out gets one line, with the address.
	Out io.Writer
}

// Serve runs the service until ctx ends or cfg.Alive does; neither is an error. Requests under way are cut: who
// runs this wants to see what a caller makes of that. When the context ends first, the goroutine that reads
// cfg.Alive stays until that ends too.
func Serve(ctx context.Context, cfg Config) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("payment service: %w", err)
	}
	srv := &http.Server{Handler: New(cfg.Seed), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	gone := make(chan struct{})
	if cfg.Alive != nil {
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, cfg.Alive)
		}()
	}
	if _, err = fmt.Fprintf(cfg.Out, "%shttp://%s\n", Greeting, l.Addr()); err == nil {
		select {
		case <-ctx.Done():
		case <-gone:
		case err = <-ended:
			return fmt.Errorf("payment service: %w", err)
		}
	}
	err = errors.Join(err, srv.Close())
	<-ended
	return err
}
