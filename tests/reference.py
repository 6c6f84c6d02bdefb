"""The plain ways that our fast ones are measured and tested against, each as short and readable as can be."""

import warnings

from sklearn.cluster import MeanShift


def plain_cluster(prediction, bandwidth):
    """clustering.cluster by scikit-learn: (num_clusters, labels [N], cluster_centers [num_clusters, feature_dim])."""
    with warnings.catch_warnings():  # "Binning data failed": a bin a point, so the points themselves are the seeds
        warnings.simplefilter('ignore', UserWarning)
        mean_shift = MeanShift(bandwidth=bandwidth, bin_seeding=True, cluster_all=True).fit(prediction)
    return len(mean_shift.cluster_centers_), mean_shift.labels_, mean_shift.cluster_centers_
