package broker

import (
	"context"
	"log/slog"

	"okta-token-broker/internal/caller"
	"okta-token-broker/internal/oauth"
)

// Bounds, in bytes, on what a request can put into one field of the audit record,
// and on the reason that it was refused for.
const (
	maxAudited = 256
	maxRefused = 1024
	// maxNamed bounds what an answer repeats of the scopes that were asked for.
	maxNamed = 256
)

func shorten(s string, most int) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// audit writes who got what, or why not.
func (b *Broker) audit(ctx context.Context, message string, who caller.Caller, err error, attrs ...slog.Attr) {
	level := slog.LevelInfo
	if class := oauth.ClassOf(err); err != nil && (class == oauth.Internal || class == oauth.NoSpace) {
		level = slog.LevelError // the answer sends its reader to the log
	}
	record := make([]slog.Attr, 0, 8) // more than there are: it stays on the stack
	for _, attr := range attrs {
		if s := attr.Value.String(); len(s) > maxAudited {
			attr.Value = slog.StringValue(shorten(s, maxAudited))
		}
		record = append(record, attr)
	}
	record = append(record, slog.String("caller", who.String()))
	if err != nil {
		record = append(record, slog.String("refused", shorten(err.Error(), maxRefused)))
	}
	b.log.LogAttrs(ctx, level, message, record...)
}
