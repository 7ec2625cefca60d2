"""One online round and what it needs: data, snapshots, serving. The only room that ties all others together."""
