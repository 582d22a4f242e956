"""Makes the weights of `src/segment/vectors/stop.rs`: `SHOAL_DATA=DIR python3 benches/stop_rule.py` (needs numpy).

Searches clusters of debpkg's vectors for the ten nearest of each held-out query, one cluster after the other, and notes after each
cluster what the rule knows and what share of the ten is still lacking. A logistic regression over the even queries predicts that share;
the table says what stopping by it finds and looks at, on the even queries, on the odd ones and on those of other collections.
"""

import os

import numpy as np

DATA = os.environ["SHOAL_DATA"]
CLUSTERS, ROUNDS, K, DEPTH, FIRST = 508, 8, 10, 12, 4
NEAREST_MAX = 1.25


def vectors(path):
    if not os.path.exists(path):
        os.system(f"zstd -qdkf {path}.zst -o /tmp/stop_rule.npy")
        path = "/tmp/stop_rule.npy"
    found = np.load(path).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def kmeans(sample):
    centroids = sample[np.arange(CLUSTERS) * len(sample) // CLUSTERS].copy()
    for _ in range(ROUNDS):
        nearest = np.argmax(sample @ centroids.T - (centroids**2).sum(1) / 2, axis=1)
        for at in range(CLUSTERS):
            if (nearest == at).any():
                centroids[at] = sample[nearest == at].mean(0)
    return centroids


def searches(queries, base, centroids, members):
    """Per query and number of clusters searched: what the rule knows, the recall, the vectors looked at."""
    sizes = np.diff(members)
    nearest = np.full((len(queries), CLUSTERS, DEPTH), 9.0, np.float32)
    for at in range(CLUSTERS):
        distances = 2 - 2 * queries @ base[members[at] : members[at + 1]].T
        some = np.sort(distances, axis=1)[:, :DEPTH]
        nearest[:, at, : some.shape[1]] = some
    truth = np.sort(nearest.reshape(len(queries), -1), axis=1)[:, K - 1] + 1e-6
    to_centroids = (centroids**2).sum(1) + 1 - 2 * queries @ centroids.T
    order = np.argsort(to_centroids, axis=1)
    to_centroids = np.take_along_axis(to_centroids, order, 1)
    each = np.arange(len(queries))
    best = np.full((len(queries), DEPTH), 9.0, np.float32)
    seen = np.zeros((len(queries), DEPTH), np.float32)
    scanned = np.zeros((len(queries), CLUSTERS + 1))
    recall = np.zeros((len(queries), CLUSTERS + 1))
    known = np.zeros((len(queries), CLUSTERS + 1, 3))
    for step in range(CLUSTERS):
        size = sizes[order[:, step]]
        scanned[:, step + 1] = scanned[:, step] + size
        both = np.concatenate([best, nearest[each, order[:, step]]], 1)
        at = np.log(np.maximum(scanned[:, step] + size / 2, 1))
        when = np.concatenate([seen, np.repeat(at[:, None], DEPTH, 1)], 1)
        keep = np.argsort(both, axis=1)[:, :DEPTH]
        best, seen = np.take_along_axis(both, keep, 1), np.take_along_axis(when, keep, 1)
        recall[:, step + 1] = (best[:, :K] <= truth[:, None]).sum(1) / K
        following = to_centroids[:, step + 1] if step + 1 < CLUSTERS else np.full(len(queries), 9.0)
        known[:, step + 1, 0] = np.sqrt(best[:, K - 1] / following)
        known[:, step + 1, 1] = np.minimum(np.sqrt(best[:, K - 1] / to_centroids[:, 0]), NEAREST_MAX)
        known[:, step + 1, 2] = seen.mean(1) - np.log(scanned[:, step + 1])
    return known, recall, scanned


def regression(known, lacking):
    known = np.concatenate([known, np.ones((len(known), 1))], 1)
    weights = np.zeros(known.shape[1])
    for _ in range(40):
        predicted = 1 / (1 + np.exp(-known @ weights))
        hessian = (known * (predicted * (1 - predicted))[:, None]).T @ known + 1e-6 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, known.T @ (predicted - lacking))
    return weights


base = vectors(f"{DATA}/debpkg/base.f16.npy")
centroids = kmeans(base[:: len(base) // (CLUSTERS * 64)])
nearest = np.concatenate([np.argmax(part @ centroids.T - (centroids**2).sum(1) / 2, axis=1) for part in np.array_split(base, 64)])
order = np.argsort(nearest, kind="stable")
members = np.searchsorted(nearest[order], np.arange(CLUSTERS + 1))
sets = {name: vectors(f"{DATA}/{name}/queries.f16.npy") for name in ("debpkg", "scifact", "cranfield")}
sets = {"even": sets["debpkg"][::2], "odd": sets["debpkg"][1::2], "scifact": sets["scifact"], "cranfield": sets["cranfield"]}
found = {name: searches(queries, base[order], centroids, members) for name, queries in sets.items()}
known, recall, _ = found["even"]
part = slice(FIRST, 300)
weights = regression(known[:, part].reshape(-1, 3), 1 - recall[:, part].ravel())
print("next %.2f, nearest %.2f, early %.2f, constant %.2f" % tuple(weights))
for wanted in (0.9, 0.92, 0.95, 0.97, 0.99):
    lacking = 1.1 * (1 - wanted)
    for name, (known, recall, scanned) in found.items():
        stops = known @ weights[:-1] + weights[-1] <= np.log(lacking / (1 - lacking))
        stops[:, :FIRST], stops[:, -1] = False, True
        at = stops.argmax(1)
        each = np.arange(len(at))
        print(f"wanted {wanted}: {name} {recall[each, at].mean():.4f}, {scanned[each, at].mean():.0f} vectors")
    _, recall, scanned = found["odd"]
    fixed = next(step for step in range(CLUSTERS + 1) if found["even"][1][:, step].mean() >= wanted)
    print(f"wanted {wanted}: always {fixed} clusters: odd {recall[:, fixed].mean():.4f}, {scanned[:, fixed].mean():.0f} vectors")
