// Package demo is the demonstration that `forseti demo` runs: one node with its NATS server in this process, a
// payment service in a process of its own, a producer that knows nothing but NATS, and a script of faults.
//
//	producer ──► forseti.v1.task.charge, .quote ══► node: pipelines charge, quote ──► payment service
//	 (nats.go)                                        │         ▲                      (slow, failing, killed)
//	                                                  │         └── kill switch ◄── operator
//	                                   results, dead letters ══► auditor ──► claims: PASS or FAIL
//
// Nothing is simulated. The story on the screen comes from the node's events; the verdicts at the end come from
// what NATS stored and from the payment service's own log, read by an auditor that shares nothing with the node.
package demo
