package images

import (
	"fmt"
	"path/filepath"
	"time"
)

// Config is the plugin's section in containerd's config.
type Config struct {
	// Address is the path of the daemon's ttrpc socket.
	Address string `toml:"address"`
	// Timeout bounds one call to the daemon, as Go writes durations ("500ms").
	Timeout string `toml:"timeout"`
	// Get has the daemon answer Images/Get, too. Its answers are as exact as containerd's own, but the way
	// to another process and back takes longer than containerd's whole Get.
	Get bool `toml:"get"`
	// Disable leaves containerd's images service as it is.
	Disable bool `toml:"disable"`
}

// DefaultConfig is what holds for keys that the config does not have.
func DefaultConfig() Config {
	return Config{Address: "/run/lmdb-images/images.sock.ttrpc", Timeout: "1s"}
}

// check returns the timeout, or what is wrong with which key.
func (c *Config) check() (time.Duration, error) {
	if !filepath.IsAbs(c.Address) {
		return 0, fmt.Errorf("address = %q: must be the absolute path of a ttrpc socket, such as %q",
			c.Address, DefaultConfig().Address)
	}
	timeout, err := time.ParseDuration(c.Timeout)
	if err != nil || timeout <= 0 {
		return 0, fmt.Errorf("timeout = %q: must be a duration above 0, such as \"1s\"", c.Timeout)
	}
	return timeout, nil
}
