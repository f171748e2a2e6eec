// Package forsetihttp puts pipelines around HTTP: a RoundTripper for clients, a middleware for servers.
//
//	transport, err := forsetihttp.NewTransport(p, nil)     retries, a breaker per host, hedging, limits
//	client := &http.Client{Transport: transport}
//
//	protect, err := forsetihttp.Middleware(p)              rate limits, load shedding, bulkheads, a kill switch
//	mux.Handle("/pay", protect(pay))
//
// A client's request becomes a call on behalf of its host (messages.Context.Target). Each attempt is a request of its own:
//
//	request -> repeatable? -> layers -> attempt -> base RoundTripper
//	                            |          |
//	                            |          429, 5xx: *StatusError, which a Retry reads Retry-After of
//	                            refusal, limit met: an error
//
// What the caller gets is a response as the server made it, also when that is a 503 and all attempts failed, or a typed
// error. All other responses are read to their end, if that is near, and closed.
//
// A server's request becomes a call that is never made twice. The handler writes to the client as it goes; a refusal is
// answered in its place: 429 or 503, Retry-After, application/problem+json.
//
// What holds for users:
//
//  1. Requests that are not idempotent are made once, whatever the pipeline says; so are those whose body cannot be sent
//     again.
//  2. The caller's request is never changed; its body is closed once, also when the pipeline refuses.
//  3. Limits count until a response's header is there. Its body depends on the caller's context, and must be closed.
//  4. Nothing is left behind when that body is closed or read to its end: no goroutine, no timer, no connection but idle ones.
//  5. A caller or a client that left counts neither as success nor as failure.
//  6. No Cache and no Idempotency layer: a body can be read once. Both constructors refuse them.
package forsetihttp
