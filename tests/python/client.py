"""Drives banger's API by its OpenAPI document alone: validates the document, creates a VM, runs commands, deletes it.

Usage: client.py SOCKET IMAGE

Every request is looked up in the document by its operation id, and every response is validated against the schema there.
"""

import http.client
import json
import socket
import struct
import sys
import urllib.parse

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

# The kinds of the agent's frames (crates/proto).
CONTROL, STDIN, STDOUT, STDERR = range(4)

# Uses the shell's own commands only.
SCRIPT = 'while read -r line; do echo "$line"; done; echo oops >&2; exit 7'


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class ApiError(Exception):
    """An error response."""

    def __init__(self, status, error):
        super().__init__(f"{status}: {error['message']}")
        self.status, self.kind = status, error["kind"]


class Client:
    """A client whose methods are the operations of the document."""

    def __init__(self, path):
        self.path = path
        self.operations = {}
        connection = UnixConnection(path)
        connection.request("GET", "/v1/openapi.json")
        self.document = json.load(connection.getresponse())
        for url, methods in self.document["paths"].items():
            for method, operation in methods.items():
                self.operations[operation["operationId"]] = (method.upper(), url, operation)

    def check(self, value, schema):
        """Validates a value against a schema of the document."""
        Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)

    def send(self, operation_id, body=None, **parameters):
        """Sends a request, and returns the connection, the response and the operation."""
        method, url, operation = self.operations[operation_id]
        query = {}
        for parameter in operation["parameters"]:
            name = parameter["name"]
            if parameter["in"] == "path":
                url = url.replace("{" + name + "}", urllib.parse.quote(parameters.pop(name)))
            elif name in parameters:
                query[name] = parameters.pop(name)
            else:
                assert not parameter["required"], f"{operation_id} needs {name}"
        assert not parameters, f"{operation_id} has no parameters {list(parameters)}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        headers = {}
        if body is not None:
            self.check(body, operation["requestBody"]["content"]["application/json"]["schema"])
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        if "101" in operation["responses"]:
            headers |= {"connection": "upgrade", "upgrade": "banger-tunnel"}
        connection = UnixConnection(self.path)
        connection.request(method, url, body, headers)
        response = connection.getresponse()
        if response.status >= 400:
            error = json.load(response)
            self.check(error, operation["responses"]["default"]["content"]["application/json"]["schema"])
            raise ApiError(response.status, error)
        return connection, response, operation

    def call(self, operation_id, body=None, **parameters):
        """Returns the result of an operation: its JSON value, or the result of its last event."""
        _, response, operation = self.send(operation_id, body, **parameters)
        content = operation["responses"]["200"]["content"]
        if "application/json" in content:
            value = json.load(response)
            self.check(value, content["application/json"]["schema"])
            return value
        lines = content["application/x-ndjson"]
        for line in response:
            event = json.loads(line)
            self.check(event, lines["schema"])
            if event["event"] == "error":
                raise ApiError(response.status, event["error"])
            if event["event"] == "done":
                self.check(event["result"], lines["x-result"])
                return event["result"]
        raise EOFError(f"{operation_id} ended without a result")

    def exec(self, vm, argv, stdin=b""):
        """Runs a program in a VM, and returns its exit status, standard output and standard error."""
        connection, response, _ = self.send("openTunnel", vm=vm)
        assert response.status == 101, response.status
        agent = Agent(connection.sock, response.fp)
        assert agent.message()["generation"] >= 1
        agent.send(CONTROL, json.dumps({"op": "exec", "argv": argv, "stdin": True}).encode())
        assert agent.message()["reply"] == "started"
        try:
            if stdin:
                agent.send(STDIN, stdin)
            # An empty frame ends the stream.
            agent.send(STDIN, b"")
        except BrokenPipeError:
            # The program exited without reading all of it; its output and status can still be read.
            pass
        output = {STDOUT: b"", STDERR: b""}
        while True:
            kind, payload = agent.frame()
            if kind in output:
                output[kind] += payload
                continue
            reply = json.loads(payload)
            if reply["reply"] == "exited":
                return reply["status"], output[STDOUT], output[STDERR]


class Agent:
    """The agent's protocol: frames with a length, a kind and a payload."""

    def __init__(self, sock, reader):
        self.sock, self.reader = sock, reader

    def send(self, kind, payload):
        self.sock.sendall(struct.pack(">IB", len(payload), kind) + payload)

    def frame(self):
        length, kind = struct.unpack(">IB", self.reader.read(5))
        return kind, self.reader.read(length)

    def message(self):
        kind, payload = self.frame()
        assert kind == CONTROL, kind
        return json.loads(payload)


def main(path, image):
    client = Client(path)
    validate(client.document)
    print(f"OpenAPI {client.document['openapi']}: {len(client.operations)} operations, valid")

    client.call("getDaemon")
    for listing in ["listVms", "listImages", "listKernels", "listOperations", "listCatalogImages", "listCatalogKernels"]:
        client.call(listing)

    vm = client.call("createVm", {"name": "python", "image": image, "detach": True})
    try:
        assert client.call("getVm", vm="python")["state"] == "running"
        status, out, err = client.exec("python", ["/bin/sh", "-c", SCRIPT], b"through the tunnel\n")
        assert (out, err) == (b"through the tunnel\n", b"oops\n"), (out, err)
        assert status == {"code": 7}, status
        client.call("getStats")
    finally:
        client.call("deleteVm", vm=vm["id"], force="true")
    try:
        client.call("getVm", vm="python")
        raise AssertionError("the VM is still there")
    except ApiError as error:
        assert (error.status, error.kind) == (404, "not_found"), error
    print("created, used and deleted a VM")


if __name__ == "__main__":
    main(*sys.argv[1:])
