// Package forsetiprom serves a runtime's metrics to Prometheus:
//
//	http.Handle("/metrics", forsetiprom.Handler(rt))
//
// The names are those of METRICS.md of package runtime, with underscores, a unit and _total. Every label has a bounded set of
// values, and none is a task's id, a tenant, a key or the text of an error. Calls pay nothing for a scrape: they are counted
// anyway, and read when somebody asks.
//
// A program that has a MeterProvider of OpenTelemetry gives Runtime.Metrics to its reader instead, by WithProducer.
package forsetiprom
