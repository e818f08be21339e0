package cli

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"

	"okta-token-broker/internal/config"
)

// lookEvery is how often the file is looked at. A change is taken up at the second
// look that finds it.
const lookEvery = 500 * time.Millisecond

// reloader loads the configuration anew when its file has changed, and on SIGHUP.
type reloader struct {
	// file is looked at twice a second. Empty: SIGHUP alone reloads.
	file string
	text []byte // that is in force
	load func() (*config.Loaded, error)
}

// watch gives each new configuration to use until ctx ends. One that is not valid,
// or cannot be used, leaves the one before in force.
func (r *reloader) watch(ctx context.Context, hangups <-chan os.Signal, use func(config.Config) error, log *slog.Logger) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := r.text
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			last = r.read()
		case <-tick.C:
			// A file that is being written is another one at the next look.
			now := r.read()
			settled := bytes.Equal(now, last)
			if last = now; !settled || bytes.Equal(now, r.text) {
				continue
			}
		}
		r.text = last
		if err := r.reload(use, log); err != nil {
			log.Error("the configuration was not taken up: the one before stays in force", "err", err)
		}
	}
}

func (r *reloader) reload(use func(config.Config) error, log *slog.Logger) error {
	loaded, err := r.load()
	if err != nil {
		return err
	}
	if err := use(loaded.Config); err != nil {
		return err
	}
	for _, warning := range loaded.Warnings {
		log.Warn("the configuration may not do what is meant", "warning", warning)
	}
	return nil
}

// read returns what is in the file; nothing when it cannot be read, which loading
// it then says.
func (r *reloader) read() []byte {
	if r.file == "" {
		return nil
	}
	data, _ := os.ReadFile(r.file)
	return data
}
