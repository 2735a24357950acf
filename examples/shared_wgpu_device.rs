//! The pipeline on the application's own wgpu device, as an editor or a game has it: one GPU, one
//! queue, and the picture becomes a texture of the application.
//!
//! `cargo run --release --example shared_wgpu_device --features wgpu`

use std::error::Error;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::wgpu::wgpu::util::{DeviceExt, TextureDataOrder};
use burn::tensor::wgpu::{WgpuSetup, wgpu};
use sd_pipeline::{RgbImage, devices};

fn main() -> Result<(), Box<dyn Error>> {
    let setup = application()?;
    println!("on {:?}", setup.adapter.get_info());

    // The handles are reference-counted: the application keeps its own.
    let pipeline = sd_tiny::pipeline(&devices::wgpu::from_setup(setup.clone())?)?;
    let picture = &pipeline.generate(&sd_tiny::request(sd_tiny::PROMPT))?[0];
    let texture = upload(picture, &setup.device, &setup.queue);
    println!("a texture of {:?} on the same device", texture.size());
    sd_pipeline::write_png(picture, "out.png")?;
    Ok(())
}

/// The application's own part: an adapter, and all that it offers.
fn application() -> Result<WgpuSetup, Box<dyn Error>> {
    // With the feature `vulkan`, Burn must open Vulkan itself: see `devices::wgpu::from_setup`.
    let backends = match cfg!(feature = "vulkan") {
        true => wgpu::Backends::all() - wgpu::Backends::VULKAN,
        false => wgpu::Backends::all(),
    };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = ready(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let description = wgpu::DeviceDescriptor {
        required_features: adapter.features() & !wgpu::Features::all_experimental_mask(),
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = ready(adapter.request_device(&description))?;
    Ok(WgpuSetup {
        instance,
        backend: adapter.get_info().backend,
        adapter,
        device,
        queue,
    })
}

/// The picture as a texture, to be drawn by the application's own shaders.
fn upload(picture: &RgbImage, device: &wgpu::Device, queue: &wgpu::Queue) -> wgpu::Texture {
    let rgba: Vec<u8> = (picture.pixels().flat_map(|p| [p[0], p[1], p[2], 255])).collect();
    let description = wgpu::TextureDescriptor {
        label: Some("picture"),
        size: wgpu::Extent3d {
            width: picture.width(),
            height: picture.height(),
            depth_or_array_layers: 1,
        },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8UnormSrgb,
        usage: wgpu::TextureUsages::TEXTURE_BINDING,
        view_formats: &[],
    };
    device.create_texture_with_data(queue, &description, TextureDataOrder::LayerMajor, &rgba)
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
