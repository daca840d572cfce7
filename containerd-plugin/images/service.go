package images

import (
	"context"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// DirectHeader is set by the daemon on each call that it makes to containerd. Such a call must not come
// back to the daemon, which waits for its answer.
const DirectHeader = "lmdb-images-direct"

// service is containerd's images service with Get and List answered by the daemon.
type service struct {
	imagesapi.ImagesClient
	daemon *Daemon
}

// Get returns the daemon's answer, or containerd's own.
func (s *service) Get(ctx context.Context, req *imagesapi.GetImageRequest, opts ...grpc.CallOption) (*imagesapi.GetImageResponse, error) {
	var reply *imagesapi.GetImageResponse
	answered, err := s.ask(ctx, func(ctx context.Context, daemon imagesapi.TTRPCImagesService) (err error) {
		reply, err = daemon.Get(ctx, req)
		return err
	})
	if answered {
		return reply, err
	}
	return s.ImagesClient.Get(ctx, req, opts...)
}

// List returns the daemon's answer, or containerd's own.
func (s *service) List(ctx context.Context, req *imagesapi.ListImagesRequest, opts ...grpc.CallOption) (*imagesapi.ListImagesResponse, error) {
	var reply *imagesapi.ListImagesResponse
	answered, err := s.ask(ctx, func(ctx context.Context, daemon imagesapi.TTRPCImagesService) (err error) {
		reply, err = daemon.List(ctx, req)
		return err
	})
	if answered {
		return reply, err
	}
	return s.ImagesClient.List(ctx, req, opts...)
}

// ask makes one call to the daemon. It returns false if containerd must answer: the daemon makes the
// call itself, the namespace is missing or not valid (containerd's error says so), or the daemon has no
// answer.
func (s *service) ask(ctx context.Context, call Call) (bool, error) {
	if incoming, ok := metadata.FromIncomingContext(ctx); ok && len(incoming.Get(DirectHeader)) > 0 {
		return false, nil
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return false, nil
	}
	return s.daemon.Ask(ctx, namespace, call)
}
