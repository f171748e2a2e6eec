// Package payment is the downstream of the demonstration: a small HTTP service that charges and quotes, runs as a
// process of its own, and can be told to become slow or to fail.
//
//	POST /charge, /quote     {"order":17,"amount":4200} ──► {"order":17,"amount":4200,"kind":"charge"}
//	GET, PUT /control        reads or sets the Mode, and counts requests
//	GET /control/arrivals    when requests arrived, for whoever wants to check a claim about them
//
// What it draws by chance, which request is slow and which one fails, comes from a seed. It ends when its standard
// input does, so that it never outlives who started it.
package payment
