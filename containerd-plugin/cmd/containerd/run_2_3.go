//go:build containerd_2_3

package main

import "github.com/containerd/containerd/v2/cmd/containerd/command"

func run(arguments []string) error { return command.App().Run(arguments) }
