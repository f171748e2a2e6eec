package forsetihttp_test

import (
	"net"
	"net/http"
	"sync/atomic"
)

func newConns(n *atomic.Int32) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.Add(1)
		}
	}
}
