package images

import (
	"context"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// DirectHeader is set by the daemon on each call that it makes to containerd. Such a call must not come
// back to the daemon, which waits for its answer.
const DirectHeader = "lmdb-images-direct"

const imagesService = "containerd.services.images.v1.Images"

// service is containerd's images service with List, and Get if so configured, answered by the daemon.
type service struct {
	imagesapi.ImagesClient
	daemon *Daemon
	// asksGet is false where containerd answers each Get.
	asksGet bool
}

// Get returns the daemon's answer, or containerd's own.
func (s *service) Get(ctx context.Context, req *imagesapi.GetImageRequest, opts ...grpc.CallOption) (*imagesapi.GetImageResponse, error) {
	if s.asksGet {
		reply := &imagesapi.GetImageResponse{}
		if answered, err := s.ask(ctx, "Get", req, reply); answered {
			return reply, err
		}
	}
	return s.ImagesClient.Get(ctx, req, opts...)
}

// List returns the daemon's answer, or containerd's own.
func (s *service) List(ctx context.Context, req *imagesapi.ListImagesRequest, opts ...grpc.CallOption) (*imagesapi.ListImagesResponse, error) {
	reply := &imagesapi.ListImagesResponse{}
	if answered, err := s.ask(ctx, "List", req, reply); answered {
		return reply, err
	}
	return s.ImagesClient.List(ctx, req, opts...)
}

// ask makes one call to the daemon. It returns false if containerd must answer: the daemon makes the
// call itself, the namespace is missing or not valid (containerd's error says so), or the daemon has no
// answer.
func (s *service) ask(ctx context.Context, method string, req, reply proto.Message) (bool, error) {
	if incoming, ok := metadata.FromIncomingContext(ctx); ok && len(incoming.Get(DirectHeader)) > 0 {
		return false, nil
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return false, nil
	}
	return s.daemon.Ask(ctx, namespace, func(ctx context.Context, daemon *ttrpc.Client) error {
		if called, ok := grpc.Method(ctx); !ok || called != "/"+imagesService+"/"+method {
			return daemon.Call(ctx, imagesService, method, req, reply)
		}
		// containerd's gRPC service only hands this reply on, so its fields are not decoded to be encoded
		// again: a message keeps fields that it does not know as they came, and [emptypb.Empty] knows none.
		var undecoded emptypb.Empty
		err := daemon.Call(ctx, imagesService, method, req, &undecoded)
		reply.ProtoReflect().SetUnknown(undecoded.ProtoReflect().GetUnknown())
		return err
	})
}
