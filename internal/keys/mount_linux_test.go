package keys

import "syscall"

// ownMounts gives a process a mount namespace of its own.
func ownMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
}

// mountSmall puts a tmpfs of a few pages over a folder, in this process alone,
// or says why that cannot be.
func mountSmall(folder string) (why string) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return "making mounts private: " + err.Error()
	}
	if err := syscall.Mount("none", folder, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		return "mounting a tmpfs: " + err.Error()
	}
	return ""
}

func remount(folder string, readOnly bool) error {
	flags := uintptr(syscall.MS_REMOUNT)
	if readOnly {
		flags |= syscall.MS_RDONLY
	}
	return syscall.Mount("none", folder, "tmpfs", flags, "")
}
