package tokens

import (
	"testing"

	"go.uber.org/goleak"
)

// A Store that is closed leaves nothing running.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
