//! Brings the image of a container: what this board has, else what the cluster has.
//!
//! The words of events are kubelet's (`pkg/kubelet/images/image_manager.go`).

use std::sync::Arc;
use std::time::Instant;

use logic::pod::spec::{Container, PullPolicy};
use logic::pod::{Event, ImageRef};

use super::{Answer, Driver, Job, blocking};
use crate::io::image::{FetchError, Fetched, Image, ImageError, ImageName};
use crate::node::pull::{Puller, go_duration};
use crate::node::report::Report;

impl Driver {
    pub(super) async fn ensure_image(&self, job: &Job, container: &str) -> Answer {
        let Some(spec) = job.pod.container(container) else { return Answer::of(job, None) };
        let absent = match self.resolve(&spec.image).await {
            Ok(found) => {
                let how = match spec.image_pull_policy {
                    PullPolicy::Always => "is used as it is on this board: no registry to ask",
                    _ => "already present on machine and can be accessed by the pod",
                };
                let text = format!("Container image {:?} {how}", spec.image);
                return ready(job, container, &found)
                    .reporting(Report::normal("Pulled", text, container));
            }
            Err(error) => error,
        };
        let name = ImageName::parse(&spec.image);
        let event = match (&absent, name, &self.puller) {
            (ImageError::Name { .. }, ..) => invalid(spec),
            (ImageError::Absent(_), ..) if spec.image_pull_policy == PullPolicy::Never => {
                let image = &spec.image;
                let text =
                    format!("Container image {image:?} is not present with pull policy of Never");
                missing(container, "ErrImageNeverPull", text)
            }
            (ImageError::Absent(_), Ok(name), Some(puller)) => {
                return self.pull(job, spec, &name, puller).await;
            }
            (error, ..) => {
                let remedy = match error {
                    ImageError::Absent(_) => {
                        " and no registry is configured: bring it with `kumquat image import FILE`"
                    }
                    _ => "",
                };
                let text =
                    format!("Failed to pull image {:?}: {}{remedy}", spec.image, error.text());
                missing(container, "ErrImagePull", text)
            }
        };
        Answer::of(job, Some(event))
    }

    /// Fetches an image that this board lacks.
    async fn pull(&self, job: &Job, spec: &Container, name: &ImageName, puller: &Puller) -> Answer {
        let (image, container) = (&spec.image, spec.name.as_str());
        let begins = Report::normal("Pulling", format!("Pulling image {image:?}"), container);
        // Nobody listens once the agent has ended.
        drop(self.answers.send(Answer::of(job, None).reporting(begins)).await);
        let began = Instant::now();
        let why = match puller.pull(image, name).await {
            Ok(Fetched { bytes, .. }) => match self.resolve(image).await {
                Ok(found) => {
                    let time = go_duration(began.elapsed());
                    let text = format!(
                        "Successfully pulled image {image:?} in {time} ({time} including waiting). \
                         Image size: {bytes} bytes."
                    );
                    return ready(job, container, &found)
                        .reporting(Report::normal("Pulled", text, container));
                }
                Err(error) => Arc::new(FetchError::Image(error)),
            },
            Err(error) => error,
        };
        let text = match &*why {
            FetchError::Image(error) => self.refusal(image, error, why.text()),
            _ => format!("Failed to pull image {image:?}: {}", why.text()),
        };
        Answer::of(job, Some(missing(container, "ErrImagePull", text)))
    }

    /// What a person reads of an image that cannot be had.
    fn refusal(&self, image: &str, error: &ImageError, text: String) -> String {
        match error {
            ImageError::Architecture { name, built, board } => {
                format!("image {name} is for {built}, board {} is {board}", self.board.name)
            }
            _ => format!("Failed to pull image {image:?}: {text}"),
        }
    }

    async fn resolve(&self, image: &str) -> Result<Image, ImageError> {
        let (image, store) = (image.to_owned(), self.images.clone());
        let interrupted = || Err(ImageError::Absent("(interrupted)".to_owned()));
        blocking(move || store.resolve(&image)).await.unwrap_or_else(interrupted)
    }
}

fn missing(container: &str, reason: &str, message: String) -> Event {
    Event::ImageMissing { container: container.to_owned(), reason: reason.to_owned(), message }
}

fn invalid(spec: &Container) -> Event {
    let image = &spec.image;
    let text = format!(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid \
         reference format"
    );
    missing(&spec.name, "InvalidImageName", text)
}

fn ready(job: &Job, container: &str, found: &Image) -> Answer {
    let repository = found.name.split('@').next().unwrap_or_default();
    let repository = match repository.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => repository,
    };
    let id = format!("{repository}@{}", found.digest);
    let stop_signal = found.config.stop_signal.clone();
    let image = ImageRef { name: found.name.clone(), id, stop_signal };
    Answer::of(job, Some(Event::ImageReady { container: container.to_owned(), image }))
}
