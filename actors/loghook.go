package actors

import (
	"context"
	"log/slog"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// LogHook writes a line for what goes wrong: retries and refusals at level Info, failed attempts at Warn. Successes are
// written at Debug. It never writes payloads or attributes. The error's
// text is cut to 1 KiB, and redacted by the rules of the system. A nil logger means slog.Default().
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
			text("reason", toldText(m.redaction, m.Reason))
			text("task_type", m.TaskType)
			text("order_id", m.Context.OrderID)
			text("trace_id", m.Context.TraceID)
			if m.Delay > 0 {
				attrs = append(attrs, slog.Duration("delay", m.Delay))
			}
			if m.Err != nil {
				text("error", toldText(m.redaction, messages.ErrorText(m.Err)))
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

// toldText is a text as others may see it: withheld before it is cut, because half of a secret matches no rule.
func toldText(r *messages.Redaction, text string) string {
	text = r.Text(text)
	return strings.ToValidUTF8(text[:min(len(text), messages.MaxErrorLen)], "")
}
