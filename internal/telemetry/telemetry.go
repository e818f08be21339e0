// Package telemetry builds what the broker reports through: the logger and the metrics.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// Logger returns a logger that writes to w. level is debug, info, warn or error;
// format is text or json.
func Logger(w io.Writer, level, format string) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: one of debug, info, warn, error", level)
	}
	options.Level = parsed
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, fmt.Errorf("log format %q: one of text, json", format)
}
