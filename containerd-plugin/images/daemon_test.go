package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestTheDaemonAnswersGetAndList(t *testing.T) {
	s, local, daemon, address := setup(t, time.Second)
	var headers ttrpc.MD
	daemon.answer = func(ctx context.Context) error {
		headers, _ = ttrpc.GetMetadata(ctx)
		return nil
	}
	daemon.serve(t, address)
	if name := get(t, s, inNamespace()); name != "daemon/a" {
		t.Fatalf("Get was answered by %s", name)
	}
	for key, want := range map[string]string{NamespaceHeader: "default", DatabaseHeader: "/meta.db"} {
		if got, _ := headers.Get(key); len(got) != 1 || got[0] != want {
			t.Errorf("header %s is %q, want %q", key, got, want)
		}
	}
	reply, err := s.List(inNamespace(), &imagesapi.ListImagesRequest{})
	if err != nil || reply.Images[0].Name != "daemon" {
		t.Fatalf("List: %v, %v", reply, err)
	}
	if local.calls.Load() != 0 {
		t.Fatal("containerd was asked as well")
	}
}

func TestAReplyIsHandedOnUndecoded(t *testing.T) {
	s, local, daemon, address := setup(t, time.Second)
	daemon.serve(t, address)
	containerd := &handOn{local: s}
	client := serveGRPC(t, containerd)
	list, err := client.List(outgoing(), &imagesapi.ListImagesRequest{})
	if err != nil || len(list.Images) != 1 || list.Images[0].Name != "daemon" {
		t.Errorf("List: %v, %v", list, err)
	}
	if decoded := containerd.reply.Load().Images; len(decoded) != 0 {
		t.Errorf("containerd decoded %v", decoded)
	}
	reply, err := client.Get(outgoing(), &imagesapi.GetImageRequest{Name: "a"})
	if err != nil || reply.Image.GetName() != "daemon/a" {
		t.Errorf("Get: %v, %v", reply, err)
	}
	if local.calls.Load() != 0 {
		t.Error("containerd was asked as well")
	}
	daemon.answer = func(context.Context) error { return status.Error(codes.NotFound, `image "a": not found`) }
	if _, err := client.Get(outgoing(), &imagesapi.GetImageRequest{Name: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("Get of a missing image: %v", err)
	}
}

func TestContainerdAnswersGetByDefault(t *testing.T) {
	s, local, daemon, address := setup(t, time.Second)
	s.asksGet = DefaultConfig().Get
	daemon.serve(t, address)
	if name := get(t, s, inNamespace()); name != "containerd/a" {
		t.Errorf("Get was answered by %s", name)
	}
	if daemon.calls.Load() != 0 || local.calls.Load() != 1 {
		t.Error("the daemon was asked")
	}
}

func TestNotFoundIsAnAnswer(t *testing.T) {
	s, local, daemon, address := setup(t, time.Second)
	daemon.answer = func(context.Context) error { return status.Error(codes.NotFound, `image "a": not found`) }
	daemon.serve(t, address)
	_, err := s.Get(inNamespace(), &imagesapi.GetImageRequest{Name: "a"})
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != `image "a": not found` {
		t.Fatalf("got %v", err)
	}
	if local.calls.Load() != 0 {
		t.Fatal("containerd was asked as well")
	}
}

func TestContainerdAnswersWhenTheDaemonHasAnError(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.FailedPrecondition,
		codes.InvalidArgument, codes.Internal, codes.DataLoss, codes.Unimplemented} {
		t.Run(code.String(), func(t *testing.T) {
			s, _, daemon, address := setup(t, time.Second)
			daemon.answer = func(context.Context) error { return status.Error(code, "no") }
			daemon.serve(t, address)
			if name := get(t, s, inNamespace()); name != "containerd/a" {
				t.Fatalf("Get was answered by %s", name)
			}
		})
	}
}

func TestAnErrorOfOneCallDoesNotPauseTheOthers(t *testing.T) {
	s, _, daemon, address := setup(t, time.Second)
	daemon.answer = func(context.Context) error { return status.Error(codes.ResourceExhausted, "too large") }
	daemon.serve(t, address)
	get(t, s, inNamespace())
	get(t, s, inNamespace())
	if calls := daemon.calls.Load(); calls != 2 {
		t.Fatalf("the daemon was asked %d times, want 2", calls)
	}
}

func TestOneSlowCallThenAPause(t *testing.T) {
	s, local, daemon, address := setup(t, 50*time.Millisecond)
	release := make(chan struct{})
	daemon.answer = func(context.Context) error { <-release; return nil }
	daemon.serve(t, address)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { get(t, s, inNamespace()) })
	}
	all.Wait()
	for range 100 {
		get(t, s, inNamespace())
	}
	close(release)
	// While the daemon is not known to be up, one call tries it; the others do not wait.
	if calls := daemon.calls.Load(); calls != 1 {
		t.Errorf("the daemon was asked %d times, want 1", calls)
	}
	if calls := local.calls.Load(); calls != 200 {
		t.Errorf("containerd answered %d of 200 calls", calls)
	}
}

func TestTheDaemonComesBack(t *testing.T) {
	s, _, daemon, address := setup(t, time.Second)
	if name := get(t, s, inNamespace()); name != "containerd/a" {
		t.Fatalf("without a daemon, Get was answered by %s", name)
	}
	stop := daemon.serve(t, address)
	await(t, s, "daemon/a")
	stop()
	await(t, s, "containerd/a")
	daemon.serve(t, address)
	await(t, s, "daemon/a")
}

func TestCallsThatContainerdAnswersAlways(t *testing.T) {
	s, _, daemon, address := setup(t, time.Second)
	daemon.serve(t, address)
	direct := metadata.NewIncomingContext(inNamespace(), metadata.Pairs(DirectHeader, "1"))
	for what, ctx := range map[string]context.Context{
		"made by the daemon": direct, "without a namespace": context.Background(),
	} {
		if name := get(t, s, ctx); name != "containerd/a" {
			t.Errorf("a call %s was answered by %s", what, name)
		}
	}
	if daemon.calls.Load() != 0 {
		t.Fatal("the daemon was asked")
	}
}

func TestACallerThatLeavesDoesNotPauseTheOthers(t *testing.T) {
	s, _, daemon, address := setup(t, time.Minute)
	daemon.serve(t, address)
	get(t, s, inNamespace())
	entered := make(chan struct{})
	daemon.answer = func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithCancel(inNamespace())
	go func() { <-entered; cancel() }()
	_, _ = s.Get(ctx, &imagesapi.GetImageRequest{Name: "a"})
	daemon.answer = func(context.Context) error { return nil }
	if name := get(t, s, inNamespace()); name != "daemon/a" {
		t.Fatalf("Get was answered by %s", name)
	}
}

func TestManyCallsDuringRestarts(t *testing.T) {
	s, _, daemon, address := setup(t, time.Second)
	done := make(chan struct{})
	var all sync.WaitGroup
	var failed atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				reply, err := s.Get(inNamespace(), &imagesapi.GetImageRequest{Name: "a"})
				if err != nil || !strings.HasSuffix(reply.Image.Name, "/a") {
					failed.Add(1)
				}
			}
		})
	}
	for range 20 {
		before := daemon.calls.Load()
		s.daemon.mu.Lock()
		s.daemon.retry = time.Time{} // the pause is not what is tested here
		s.daemon.mu.Unlock()
		stop := daemon.serve(t, address)
		for daemon.calls.Load() == before {
			s.daemon.mu.Lock()
			s.daemon.retry = time.Time{}
			s.daemon.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		stop()
	}
	close(done)
	all.Wait()
	if n := failed.Load(); n != 0 {
		t.Fatalf("%d calls failed", n)
	}
}

func TestConfigSaysWhichValueIsWrong(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Address: "relative.sock", Timeout: "1s"}, `address = "relative.sock"`},
		{Config{Address: "", Timeout: "1s"}, `address = ""`},
		{Config{Address: "/a", Timeout: "soon"}, `timeout = "soon"`},
		{Config{Address: "/a", Timeout: "-1s"}, `timeout = "-1s"`},
		{Config{Address: "/a", Timeout: "0"}, `timeout = "0"`},
	} {
		if _, err := c.config.check(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s…", c.config, err, c.want)
		}
	}
	defaults := DefaultConfig()
	if timeout, err := defaults.check(); err != nil || timeout != time.Second {
		t.Errorf("defaults: %v, %v", timeout, err)
	}
}

func TestErrorsAreOfTheConnectionOrOfTheCall(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{ttrpc.ErrClosed, true},
		{fmt.Errorf("call: %w", context.DeadlineExceeded), true},
		{errors.New("write: broken pipe"), true},
		{status.Error(codes.Unavailable, ""), true},
		{status.Error(codes.FailedPrecondition, ""), true},
		{status.Error(codes.ResourceExhausted, ""), false},
		{status.Error(codes.InvalidArgument, ""), false},
	} {
		if got := broken(c.err, status.Code(c.err)); got != c.want {
			t.Errorf("broken(%v) = %t", c.err, got)
		}
	}
}
