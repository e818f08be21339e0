//go:build !linux

package keys

import (
	"errors"
	"syscall"
)

func ownMounts() *syscall.SysProcAttr { return nil }

func mountSmall(string) (why string) { return "mount namespaces are Linux's" }

func remount(string, bool) error { return errors.ErrUnsupported }
