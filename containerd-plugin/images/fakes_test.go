package images

// The fakes of these tests, and their helpers.

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// fakeDaemon answers Get and List as its test says. The real daemon cannot be made to hang on demand.
type fakeDaemon struct {
	imagesapi.TTRPCImagesService
	calls  atomic.Int64
	answer func(ctx context.Context) error
}

func (f *fakeDaemon) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	f.calls.Add(1)
	if err := f.answer(ctx); err != nil {
		return nil, err
	}
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: "daemon/" + req.Name}}, nil
}

func (f *fakeDaemon) List(ctx context.Context, _ *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	f.calls.Add(1)
	if err := f.answer(ctx); err != nil {
		return nil, err
	}
	return &imagesapi.ListImagesResponse{Images: []*imagesapi.Image{{Name: "daemon"}}}, nil
}

// serve starts the fake daemon on address until the test ends or stop is called.
func (f *fakeDaemon) serve(t *testing.T, address string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	imagesapi.RegisterTTRPCImagesService(server, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	var once sync.Once
	stop = func() { once.Do(func() { _ = server.Close(); <-done }) }
	t.Cleanup(stop)
	return stop
}

// fakeContainerd answers as containerd's own service would.
type fakeContainerd struct {
	imagesapi.ImagesClient
	calls atomic.Int64
}

func (f *fakeContainerd) Get(_ context.Context, req *imagesapi.GetImageRequest, _ ...grpc.CallOption) (*imagesapi.GetImageResponse, error) {
	f.calls.Add(1)
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: "containerd/" + req.Name}}, nil
}

func (f *fakeContainerd) List(context.Context, *imagesapi.ListImagesRequest, ...grpc.CallOption) (*imagesapi.ListImagesResponse, error) {
	f.calls.Add(1)
	return &imagesapi.ListImagesResponse{Images: []*imagesapi.Image{{Name: "containerd"}}}, nil
}

func setup(t *testing.T, timeout time.Duration) (*service, *fakeContainerd, *fakeDaemon, string) {
	t.Helper()
	address := filepath.Join(t.TempDir(), "d.sock")
	local := &fakeContainerd{}
	daemon := &fakeDaemon{answer: func(context.Context) error { return nil }}
	return &service{ImagesClient: local, daemon: NewDaemon(address, "/meta.db", timeout), asksGet: true}, local, daemon, address
}

func inNamespace() context.Context { return namespaces.WithNamespace(context.Background(), "default") }

func get(t *testing.T, s *service, ctx context.Context) string {
	t.Helper()
	reply, err := s.Get(ctx, &imagesapi.GetImageRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Image.Name
}

// handOn is containerd's gRPC service: it returns what its client of the images service gives it.
type handOn struct {
	imagesapi.UnimplementedImagesServer
	local imagesapi.ImagesClient
	reply atomic.Pointer[imagesapi.ListImagesResponse]
}

func (h *handOn) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	return h.local.Get(ctx, req)
}

func (h *handOn) List(ctx context.Context, req *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	reply, err := h.local.List(ctx, req)
	h.reply.Store(reply)
	return reply, err
}

// serveGRPC serves the service until the test ends, with the namespace in the context as in containerd.
func serveGRPC(t *testing.T, service imagesapi.ImagesServer) imagesapi.ImagesClient {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	imagesapi.RegisterImagesServer(server, service)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	connection, err := grpc.NewClient("unix:"+listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return imagesapi.NewImagesClient(connection)
}

func outgoing() context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), namespaces.GRPCHeader, "default")
}

// await calls Get until it is answered as wanted. Every Get must be answered.
func await(t *testing.T, s *service, want string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		if get(t, s, inNamespace()) == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no answer %s within 10 s", want)
		}
		time.Sleep(time.Millisecond)
	}
}
