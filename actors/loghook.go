package actors

import (
	"context"
	"log/slog"
)

// LogHook writes a line for what goes wrong: retries and refusals at level Info, failed attempts at Warn. Successes are
// written at Debug. It never writes payloads or attributes. A nil logger means slog.Default().
func LogHook(l *slog.Logger) Hook {
	if l == nil {
		l = slog.Default()
	}
	say := func(level slog.Level, what string) func(Moment) {
		return func(m Moment) {
			if !l.Enabled(context.Background(), level) {
				return
			}
			attrs := []slog.Attr{slog.String("pipeline", m.Pipeline), slog.Int("attempt", m.Attempt), slog.Duration("duration", m.Duration)}
			text := func(key, value string) {
				if value != "" {
					attrs = append(attrs, slog.String(key, value))
				}
			}
			text("outcome", string(m.Outcome))
			text("by", m.By)
			text("reason", m.Reason)
			text("task_type", m.TaskType)
			text("order_id", m.Context.OrderID)
			text("trace_id", m.Context.TraceID)
			if m.Delay > 0 {
				attrs = append(attrs, slog.Duration("delay", m.Delay))
			}
			if m.Err != nil {
				text("error", m.Err.Error())
			}
			l.LogAttrs(context.Background(), level, what, attrs...)
		}
	}
	return Hook{
		Name:      "log",
		OnSuccess: say(slog.LevelDebug, "call succeeded"),
		OnFailure: say(slog.LevelWarn, "attempt failed"),
		OnRetry:   say(slog.LevelInfo, "call is retried"),
		OnReject:  say(slog.LevelInfo, "call rejected"),
	}
}
