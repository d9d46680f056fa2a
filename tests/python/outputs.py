"""Validates the JSON output of banger's commands.

Usage: outputs.py SCHEMAS < OUTPUTS

SCHEMAS is docs/src/reference/output.json. OUTPUTS is an object with the output of each command, by the command's name.
Each example in SCHEMAS and each output must have the fields of its schema and no others.
"""

import json
import sys

from jsonschema import Draft202012Validator


def closed(schema):
    """Returns the schema of a type, without fields that it does not list."""
    return {**schema, "unevaluatedProperties": False} if "properties" in schema else schema


def main(path):
    with open(path) as file:
        document = json.load(file)
    definitions = {name: closed(schema) for name, schema in document["$defs"].items()}
    schemas, outputs = document["properties"], json.load(sys.stdin)
    if schemas.keys() != outputs.keys():
        sys.exit(f"without output: {schemas.keys() - outputs.keys()}, without schema: {outputs.keys() - schemas.keys()}")
    problems = []
    for command, schema in schemas.items():
        if outputs[command] == []:
            problems.append(f"{command}: an empty list shows nothing about its elements")
        validator = Draft202012Validator({**schema, "$defs": definitions})
        for value in [outputs[command], *schema["examples"]]:
            for error in validator.iter_errors(value):
                problems.append(f"{command}: {error.message} at {error.json_path} in {json.dumps(value)}")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(schemas)} outputs are valid")


if __name__ == "__main__":
    main(*sys.argv[1:])
