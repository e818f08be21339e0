package cli

import (
	"context"
	"log/slog"
	"os"
	"time"

	"okta-token-broker/internal/config"
)

// lookEvery is how often the file is looked at. A change is taken up at the second
// look that finds it.
const lookEvery = 500 * time.Millisecond

// reloader loads the configuration anew when its file has changed, or a key that
// belongs to it, and on SIGHUP.
type reloader struct {
	// file is looked at twice a second. Empty: there is none.
	file string
	text []byte // that is in force when watch begins
	load func() (*config.Loaded, error)
	// stale says what is to be read again though the file is as it was. Empty: nothing.
	// Nil: never.
	stale func() string
}

// look is what is found at a moment.
type look struct{ text, stale string }

// watch gives each new configuration to use until ctx ends. One that is not valid,
// or cannot be used, leaves the one before in force.
func (r *reloader) watch(ctx context.Context, hangups <-chan os.Signal, use func(config.Config) error, log *slog.Logger) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	tried := look{text: string(r.text)}
	last := tried
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			last = r.look()
		case <-tick.C:
			// A file that is being written is another one at the next look.
			now := r.look()
			settled := now == last
			if last = now; !settled || now == tried {
				continue
			}
		}
		tried = look{text: last.text}
		if err := r.reload(use, log); err != nil && ctx.Err() == nil {
			log.Error("the configuration was not taken up: the one before stays in force", "err", err)
			tried = last // once
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

// look reads the file: as nothing when it cannot be read, which loading it then says.
func (r *reloader) look() (now look) {
	if r.file != "" {
		data, _ := os.ReadFile(r.file)
		now.text = string(data)
	}
	if r.stale != nil {
		now.stale = r.stale()
	}
	return now
}
