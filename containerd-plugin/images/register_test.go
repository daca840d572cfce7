package images

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func TestTheImportReplacesOneRegistration(t *testing.T) {
	var service, ours []plugin.Registration
	for _, registration := range registry.Graph(nil) {
		switch {
		case registration.Type == plugins.ServicePlugin && registration.ID == services.ImagesService:
			service = append(service, registration)
		case registration.Type == Type:
			ours = append(ours, registration)
		}
	}
	if len(service) != 1 || !slices.Contains(service[0].Requires, Type) {
		t.Errorf("the images service is registered %d times, want once and with %s before it: %+v", len(service), Type, service)
	}
	if len(ours) != 1 || ours[0].ID != ID {
		t.Errorf("this plugin is registered as %+v", ours)
	}
}
