package forsetigrpc

import (
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
)

// targets remembers the target of the connection that was seen last: an interceptor mostly has one.
type targets struct{ last atomic.Pointer[seenTarget] }

type seenTarget struct{ given, cleaned string }

func (t *targets) of(cc *grpc.ClientConn) string {
	if cc == nil { // in somebody's test
		return ""
	}
	given := cc.Target()
	if seen := t.last.Load(); seen != nil && seen.given == given {
		return seen.cleaned
	}
	seen := &seenTarget{given, cleanTarget(given, cc.CanonicalTarget())}
	t.last.Store(seen)
	return seen.cleaned
}

// cleanTarget is the endpoint of a target, whose canonical form is scheme://[authority]/endpoint, in lower case:
// "api.example:443" of "dns:///API.example:443" and of "dns://8.8.8.8/api.example:443". Whom to ask for the address is not
// what is called. Sockets are kept apart from names, and their paths are left as they are.
func cleanTarget(given, canonical string) string {
	scheme, rest, _ := strings.Cut(canonical, "://")
	if scheme == "unix" || scheme == "unix-abstract" {
		return scheme + ":" + strings.TrimPrefix(strings.TrimPrefix(given, scheme+":"), "//")
	}
	_, endpoint, _ := strings.Cut(rest, "/")
	return strings.ToLower(endpoint)
}
