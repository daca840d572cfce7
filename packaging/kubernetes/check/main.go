// Command check reads Kubernetes manifests from standard input, and decodes each strictly as the type that
// its apiVersion and kind name: an unknown field, a wrong type or an unknown kind is an error.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	buffer := make([]byte, len(text)+1)
	found := 0
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		document := bytes.TrimSpace(buffer[:n])
		if len(document) == 0 {
			continue
		}
		var kind *schema.GroupVersionKind
		if _, kind, err = decoder.Decode(document, nil, nil); err != nil {
			return fmt.Errorf("document %d: %w", found+1, err)
		}
		found++
		_, _ = fmt.Fprintf(out, "%s %s\n", kind.GroupVersion(), kind.Kind)
	}
	if found == 0 {
		return errors.New("no manifest on standard input")
	}
	return nil
}
