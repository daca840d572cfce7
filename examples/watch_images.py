#!/usr/bin/env python3
"""Keeps a copy of the images of a namespace in a file, and prints every change: list, then watch.

    watch_images.py SOCKET NAMESPACE FILE

Does the same as examples/watch_images.rs, with grpcio. The messages are generated from protos/:

    apt-get install python3-grpcio protobuf-compiler
    protoc -I protos --python_out OUT $(cd protos && find lmdbimages google containerd -name '*.proto')
    PYTHONPATH=OUT examples/watch_images.py /run/lmdb-images/images.sock default copy.json
"""

import json
import os
import sys
import time

import grpc
from google.rpc import error_details_pb2, status_pb2
from lmdbimages.v1 import catalog_pb2

SERVICE = "/lmdbimages.v1.Catalog/"
RETRY_SECONDS = 0.2


def reason(error):
    """The reason of an error, in its details."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""


class Watcher:
    def __init__(self, socket, namespace, path):
        # gRPC's C core would send the path of the socket as :authority, which HTTP/2 servers refuse.
        options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel("unix:" + socket, options=options)
        messages = catalog_pb2
        self.list_call = channel.unary_unary(
            SERVICE + "List",
            request_serializer=messages.ListRequest.SerializeToString,
            response_deserializer=messages.ListResponse.FromString,
        )
        self.watch_call = channel.unary_stream(
            SERVICE + "Watch",
            request_serializer=messages.WatchRequest.SerializeToString,
            response_deserializer=messages.WatchResponse.FromString,
        )
        self.namespace, self.path = namespace, path
        self.epoch, self.seq, self.digests = "", 0, {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                copy = json.load(file)
            self.epoch, self.seq, self.digests = copy["epoch"], copy["seq"], copy["digests"]

    def write(self):
        """Replaces the file as a whole: a program that is killed in between sees some changes again."""
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump({"epoch": self.epoch, "seq": self.seq, "digests": self.digests}, file)
        os.replace(self.path + ".new", self.path)

    def list(self):
        """Lists all pages. Watching from the first page's seq puts right what changed between them."""
        token, digests = "", {}
        while True:
            request = catalog_pb2.ListRequest(page_token=token, page_size=1000)
            metadata = [("containerd-namespace", self.namespace)]
            page = self.list_call(request, metadata=metadata)
            for listed in page.images:
                digests[listed.image.name] = listed.image.target.digest
            token = page.next_page_token
            if not token:
                break
        self.epoch, self.seq, self.digests = page.epoch, page.seq, digests
        print(f"listed {len(digests)} images at change {self.seq}", flush=True)
        self.write()

    def watch(self):
        """Watches until the stream ends."""
        request = catalog_pb2.WatchRequest(
            epoch=self.epoch, namespaces=[self.namespace], **{"from": self.seq + 1}
        )
        print(f"watching from change {self.seq + 1}", flush=True)
        for message in self.watch_call(request):
            kind = message.WhichOneof("is")
            if kind == "changes":
                for change in message.changes.changes:
                    digest = change.after.target.digest if change.HasField("after") else None
                    print(f"change {change.seq} {change.name} {digest}", flush=True)
                    if digest is None:
                        self.digests.pop(change.name, None)
                    else:
                        self.digests[change.name] = digest
                    self.seq = change.seq
            elif kind == "progress":
                self.seq = message.progress.seq
            else:
                continue
            self.write()

    def run(self):
        while True:
            try:
                self.watch() if self.epoch else self.list()
            except grpc.RpcError as error:
                why = reason(error)
                if why in ("COMPACTED", "EPOCH_CHANGED", "AHEAD", "PAGE_TOKEN"):
                    print(f"{why}: listing again", flush=True)
                    self.epoch = ""
                elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
                    print("the daemon has gone; trying again", flush=True)
                    time.sleep(RETRY_SECONDS)
                else:
                    raise


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("watch_images.py SOCKET NAMESPACE FILE")
    Watcher(*sys.argv[1:]).run()
