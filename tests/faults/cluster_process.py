"""A head without CPUs and worker nodes of one CPU, in a process that takes commands.

Lines on stdin: `heal`, two worker nodes are up then; `add`; `kill`, the last node that was
added; `kill first`. Each is answered by the number of worker nodes. Ends with stdin.
"""

import sys

from ray.cluster_utils import Cluster

from tests.faults.processes import descendants, kill

_MEMORY = {"object_store_memory": 150_000_000}


def power_cut(node):
    """All processes of a node end at once."""
    started = [one.process for kind in node.all_processes.values() for one in kind]
    kill(*descendants(*(process.pid for process in started)))
    for process in started:
        process.wait()


def main():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_MEMORY})
    nodes = []
    sys.stdout.write(f"ADDRESS {cluster.address}\n")
    sys.stdout.flush()
    try:
        for line in sys.stdin:
            command = line.strip()
            if command.startswith("kill"):
                node = nodes.pop(0 if command == "kill first" else -1)
                power_cut(node)
                cluster.worker_nodes.discard(node)
            while command == "add" or (command == "heal" and len(nodes) < 2):
                nodes.append(cluster.add_node(num_cpus=1, **_MEMORY))
                command = "heal" if command == "heal" else ""
            sys.stdout.write(f"NODES {len(nodes)}\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
