//! The pipeline on wgpu handles that the application has, and the application on the pipeline's.

use crate::Place;
use crate::report::Log;

#[cfg(not(feature = "wgpu"))]
pub(crate) fn check(_: &Place, log: &mut Log) {
    log.not_here();
}

#[cfg(feature = "wgpu")]
pub(crate) fn check(place: &Place, log: &mut Log) {
    let is_wgpu = place.name.starts_with("wgpu") || place.name.starts_with("vulkan");
    if !is_wgpu || place.dtype != sd_pipeline::FloatDType::F32 {
        return log.not_here();
    }
    shared::handles_of_the_pipeline(place, log);
    shared::handles_of_the_application(place, log);
}

#[cfg(feature = "wgpu")]
pub(crate) use shared::setup;

#[cfg(feature = "wgpu")]
mod shared {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use burn::tensor::wgpu::WgpuSetup;
    use burn::tensor::wgpu::wgpu::{
        Adapter, Backend, Backends, DeviceDescriptor, Features, Instance, InstanceDescriptor,
    };
    use sd_pipeline::{burn, devices};

    use crate::report::Log;
    use crate::{Place, generation};

    /// The device that the pipeline opened gives its handles away, and they are alive.
    pub(super) fn handles_of_the_pipeline(place: &Place, log: &mut Log) {
        let setup =
            devices::wgpu::setup(&place.device).expect("handles of a device opened by name");
        let description = setup.device.adapter_info();
        let same = description == setup.adapter.get_info();
        log.at_least("handles", f64::from(u8::from(same)), 1.0);
    }

    /// A setup that the program made without Burn draws the same picture.
    pub(super) fn handles_of_the_application(place: &Place, log: &mut Log) {
        let instance = Instance::new(InstanceDescriptor::new_without_display_handle());
        let adapters = ready(instance.enumerate_adapters(Backends::all()));
        for adapter in adapters {
            let backend = adapter.get_info().backend;
            let setup = setup(&instance, adapter);
            match devices::wgpu::from_setup(setup) {
                Ok(device) => {
                    let own = Place {
                        name: format!("{backend:?}"),
                        device,
                        dtype: place.dtype,
                    };
                    generation::draw(&own, log);
                }
                // Refused in words, not left to a driver.
                Err(error) => {
                    let expected = cfg!(feature = "vulkan") && backend == Backend::Vulkan;
                    let told = error.to_string().contains("`devices::wgpu::setup`");
                    let value = f64::from(u8::from(expected && told));
                    log.at_least(format!("{backend:?} refused: {error}"), value, 1.0);
                }
            }
        }
    }

    /// A wgpu device as an application makes it.
    pub(crate) fn setup(instance: &Instance, adapter: Adapter) -> WgpuSetup {
        let description = DeviceDescriptor {
            required_features: adapter.features() & !Features::all_experimental_mask(),
            required_limits: adapter.limits(),
            ..DeviceDescriptor::default()
        };
        let (device, queue) = ready(adapter.request_device(&description)).expect("a wgpu device");
        WgpuSetup {
            instance: instance.clone(),
            backend: adapter.get_info().backend,
            adapter,
            device,
            queue,
        }
    }

    /// wgpu's futures are ready at once outside of browsers.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
        }
    }
}
