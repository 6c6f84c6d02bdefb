"""The plain ways that our fast ones are measured and tested against, each as short and readable as can be."""

import warnings

from sklearn.cluster import MeanShift


def plain_cluster(prediction, bandwidth):
    """clustering.cluster by scikit-learn: (num_clusters, labels, cluster_centers)."""
    with warnings.catch_warnings():  # a bin a point: the points themselves are its seeds
        warnings.simplefilter('ignore', UserWarning)
        mean_shift = MeanShift(bandwidth=bandwidth, bin_seeding=True, cluster_all=True).fit(prediction)
    return len(mean_shift.cluster_centers_), mean_shift.labels_, mean_shift.cluster_centers_
