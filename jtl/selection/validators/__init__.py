"""Scores for choosing a checkpoint or a method without target labels."""

from jtl.selection.validators.clustering import adjusted_mutual_information as adjusted_mutual_information
from jtl.selection.validators.clustering import class_clustering as class_clustering
from jtl.selection.validators.density import soft_neighbourhood_density as soft_neighbourhood_density
from jtl.selection.validators.importance import cross_fitted_ratio as cross_fitted_ratio
from jtl.selection.validators.importance import deep_embedded_validation as deep_embedded_validation
from jtl.selection.validators.importance import density_ratio as density_ratio
from jtl.selection.validators.importance import importance_weighted_risk as importance_weighted_risk
from jtl.selection.validators.mixval import mixval as mixval
from jtl.selection.validators.predictions import accuracy as accuracy
from jtl.selection.validators.predictions import certainty as certainty
from jtl.selection.validators.predictions import diversity as diversity
from jtl.selection.validators.predictions import information_maximisation as information_maximisation
from jtl.selection.validators.predictions import nuclear_norm as nuclear_norm
from jtl.selection.validators.reverse import reverse_validation as reverse_validation
from jtl.selection.validators.watch import label_free as label_free
