__version__: str

from .transcripts import Transcript as Transcript
from .data.datasets import Dataset as Dataset
from .data.datasets import load_data as load_data
from .data.datasets import open_data as open_data
from .models.language_model import load_model as load_model
from .scoring.baselines import make_baseline as make_baseline
from .scoring.run import make_scorer as make_scorer
from .scoring.run import score as score
from .store.read import read_scores as read_scores
from .store.read import scan_scores as scan_scores
from .stats.means import mean_nll as mean_nll
from .stats.effect_sizes import misalignment as misalignment
from .stats.paired import paired_means as paired_means
from .stats import paired as paired

from . import contribute as contribute
from . import data as data
from . import catalogue as catalogue
from . import downloads as downloads
from . import errors as errors
from . import figures as figures
from . import inputs as inputs
from . import likelihood as likelihood
from . import models as models
from . import organism as organism
from . import paradigms as paradigms
from . import participants as participants
from . import reference as reference
from . import scoring as scoring
from . import settings as settings
from . import stats as stats
from . import store as store
from . import transcripts as transcripts
from . import workbench as workbench
