// Package images lets containerd answer Images/List, and Images/Get if so configured, from lmdb-images.
//
// A blank import of this package is all that containerd's build needs. containerd's registry refuses a
// second plugin with the id of the images service, so the import replaces that registration: the
// service is built as before, and [service] is put around it. Create, Update and Delete stay
// containerd's. The reads go over ttrpc to the daemon, and containerd gives its own answer whenever
// the daemon's is not to be had.
//
// What asks containerd's images service gets the daemon's answers: every gRPC client, and CRI, whose
// client is in the same process. The image store that Transfer opens on the database itself stays as it is.
package images

import (
	"fmt"
	"strconv"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	// The registration that is replaced must be there first.
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Type and ID of this plugin, as `ctr plugins ls` shows them. The section of containerd's config is
// [plugins.'io.lmdb-images.v1.images'].
const (
	Type plugin.Type = "io.lmdb-images.v1"
	ID   string      = "images"
)

func init() {
	registrations := registry.Graph(nil)
	registry.Reset()
	for i := range registrations {
		registration := registrations[i]
		if registration.Type == plugins.ServicePlugin && registration.ID == services.ImagesService {
			decorate(&registration)
		}
		registry.Register(&registration)
	}

	defaults := DefaultConfig()
	registry.Register(&plugin.Registration{
		Type:     Type,
		ID:       ID,
		Config:   &defaults,
		Requires: []plugin.Type{plugins.MetadataPlugin},
		InitFn:   start,
	})
}

// decorate makes the registration of containerd's images service build that service inside of ours.
func decorate(registration *plugin.Registration) {
	build := registration.InitFn
	registration.Requires = append(append([]plugin.Type{}, registration.Requires...), Type)
	registration.InitFn = func(ic *plugin.InitContext) (any, error) {
		local, err := build(ic)
		if err != nil {
			return nil, err
		}
		ours, err := ic.GetByID(Type, ID)
		if err != nil {
			// The plugin is off or failed: `ctr plugins ls` says which. containerd goes on without it.
			return local, nil
		}
		client, ok := local.(imagesapi.ImagesClient)
		if !ok {
			return nil, fmt.Errorf("containerd's images service is a %T and not an Images client", local)
		}
		service := *ours.(*service)
		service.ImagesClient = client
		return &service, nil
	}
}

// start reads the plugin's config. It does not connect: the daemon may start later than containerd.
func start(ic *plugin.InitContext) (any, error) {
	config := ic.Config.(*Config)
	timeout, err := config.check()
	if err != nil {
		return nil, err
	}
	if config.Disable {
		return nil, fmt.Errorf("disable is set in the plugin's config: %w", plugin.ErrSkipPlugin)
	}
	database := ""
	if bolt := ic.Plugins().Get(plugins.MetadataPlugin, "bolt"); bolt != nil {
		database = bolt.Meta.Exports["path"]
	}
	ic.Meta.Exports["address"] = config.Address
	ic.Meta.Exports["timeout"] = timeout.String()
	ic.Meta.Exports["get"] = strconv.FormatBool(config.Get)
	return &service{daemon: NewDaemon(config.Address, database, timeout), asksGet: config.Get}, nil
}
