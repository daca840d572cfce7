package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/ttrpc"

	"lmdb-images/containerd-plugin/images"
)

const serveArgument = "serve"

// noLookUp answers Get with what it was asked: the least that any server of Images can do.
type noLookUp struct{ imagesapi.TTRPCImagesService }

func (noLookUp) Get(_ context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: req.Name}}, nil
}

// serve answers on the socket until the process is ended. It closes standard output when it listens.
func serve(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	imagesapi.RegisterTTRPCImagesService(server, noLookUp{})
	_ = os.Stdout.Close()
	return server.Serve(context.Background(), listener)
}

// measureWays prints the milliseconds of a Get over ttrpc: to the daemon, and to a process that looks nothing
// up.
func measureWays(daemon, namespace, name string, turns int) error {
	folder, err := os.MkdirTemp("", "measure")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	empty := filepath.Join(folder, "t.sock")
	own, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.Command(own, serveArgument, empty)
	ready, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	_, _ = ready.Read(make([]byte, 1))

	metadata := ttrpc.MD{}
	metadata.Set(images.NamespaceHeader, namespace)
	ctx := ttrpc.WithMetadata(context.Background(), metadata)
	sockets := []string{daemon, empty}
	calls := make([]func(context.Context) error, len(sockets))
	samples := make([][]float64, len(sockets))
	for i, socket := range sockets {
		connection, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		client := ttrpc.NewClient(connection)
		defer func() { _ = client.Close() }()
		calls[i] = func(ctx context.Context) error {
			_, err := imagesapi.NewTTRPCImagesClient(client).Get(ctx, &imagesapi.GetImageRequest{Name: name})
			return err
		}
	}
	for range turns {
		for i, call := range calls {
			milliseconds, err := turn(ctx, call)
			if err != nil {
				return fmt.Errorf("Get on %s: %w", sockets[i], err)
			}
			samples[i] = append(samples[i], milliseconds)
		}
	}
	fmt.Printf("\nA Get of a ttrpc client takes %.3f ms at the daemon, and %.3f ms at a server in Go that looks nothing up.\n",
		median(samples[0]), median(samples[1]))
	return nil
}
