package broker

import (
	"testing"

	"go.uber.org/goleak"
)

// A broker that is closed leaves nothing running.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
